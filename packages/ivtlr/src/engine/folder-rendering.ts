/** What can be done with a model folder's files alone, without weights: how samples become tokens, and how images are read. */
import type { RenderOptions } from '../data/render.ts';
import { UserError } from '../errors.ts';
import { checkProfile, type Family, type ImageSettings } from '../models/family.ts';
import { folderFamily } from '../models/registry.ts';
import type { ImageInputs } from '../models/types.ts';
import { type ChatTemplate, loadChatTemplate, renderChat } from '../text/chat-template.ts';
import type { ProfileName } from '../text/prompt.ts';
import { LATENT_TOKENS, Tokenizer } from '../text/tokenizer.ts';

/** How samples of a task become tokens for a folder's model. @throws UserError for a profile that the family has not */
export function folderRendering(
  folder: string,
  family: Family,
  tokenizer: Tokenizer,
  profileName: ProfileName,
): (task: string) => RenderOptions {
  checkProfile(family, profileName);
  let chatTemplate: ChatTemplate | undefined;
  return (task) => {
    const profile = family.prompts(profileName, task, folder, tokenizer);
    if (profile.train.chat || profile.infer.chat) chatTemplate ??= templateWithImage(folder, family.imageToken);
    const [, , latentToken] = LATENT_TOKENS;
    const { imageToken, maxTokens } = family;
    return {
      ...{ tokenizer, profile, imageToken, latentToken, maxTokens },
      ...(chatTemplate && { chatTemplate }),
    };
  };
}

/** @throws UserError for a template that does not mark the place of an image */
function templateWithImage(folder: string, imageToken: string): ChatTemplate {
  const template = loadChatTemplate(folder);
  const text = renderChat(template, [{ role: 'user', content: [{ type: 'image' }, { type: 'text', text: '' }] }]);
  const marks = text.split(imageToken).length - 1;
  if (marks !== 1)
    throw new UserError(
      `the chat template in ${template.source} should write ${imageToken} once for an image, but does so ${marks} times`,
    );
  return template;
}

/** A model folder without its weights: enough to see what a sample becomes. */
export interface FolderWithoutWeights {
  tokenizer: Tokenizer;
  inputs: ImageInputs;
  renderOptions(task: string): RenderOptions;
}

/** Opens config, tokenizer, chat template and preprocessing of a folder. @throws UserError naming the file that is missing or wrong */
export function openWithoutWeights(folder: string, settings: ImageSettings): FolderWithoutWeights {
  const family = folderFamily(folder);
  checkProfile(family, settings.profile);
  const tokenizer = Tokenizer.fromFolder(folder);
  tokenizer.addSpecialTokens(LATENT_TOKENS);
  const inputs = family.inputs(folder, settings);
  return { tokenizer, inputs, renderOptions: folderRendering(folder, family, tokenizer, settings.profile) };
}
