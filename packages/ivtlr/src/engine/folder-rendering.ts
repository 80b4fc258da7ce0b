/** What can be done with a model folder's files alone, without weights: how samples become tokens, and how images are read. */
import type { RenderOptions } from '../data/render.ts';
import type { Family, ImageSettings } from '../models/family.ts';
import { folderFamily } from '../models/registry.ts';
import type { ImageInputs } from '../models/types.ts';
import { type ChatTemplate, loadChatTemplate } from '../text/chat-template.ts';
import type { ProfileName } from '../text/prompt.ts';
import { LATENT_TOKENS, Tokenizer } from '../text/tokenizer.ts';

/** How samples of a task become tokens for a folder's model. */
export function folderRendering(
  folder: string,
  family: Family,
  tokenizer: Tokenizer,
  profileName: ProfileName,
): (task: string) => RenderOptions {
  let chatTemplate: ChatTemplate | undefined;
  return (task) => {
    const profile = family.prompts(profileName, task, folder, tokenizer);
    if (profile.train.chat || profile.infer.chat) chatTemplate ??= loadChatTemplate(folder);
    const [, , latentToken] = LATENT_TOKENS;
    const { imageToken, maxTokens } = family;
    return {
      ...{ tokenizer, profile, imageToken, latentToken, maxTokens },
      ...(chatTemplate && { chatTemplate }),
    };
  };
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
  const tokenizer = Tokenizer.fromFolder(folder);
  tokenizer.addSpecialTokens(LATENT_TOKENS);
  const inputs = family.inputs(folder, settings);
  return { tokenizer, inputs, renderOptions: folderRendering(folder, family, tokenizer, settings.profile) };
}
