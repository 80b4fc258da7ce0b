/** Where the hub is and where its files are kept, by the environment variables of Python's huggingface_hub. */
import { readFileSync } from 'node:fs';
import { homedir } from 'node:os';
import { join } from 'node:path';
import { UserError } from '../errors.ts';

export interface HubSettings {
  /** Without a slash at the end. */
  endpoint: string;
  /** The folder with `datasets--*` and `models--*`. */
  cache: string;
  token: string | undefined;
  offline: boolean;
}

/**
 * HF_ENDPOINT; HF_HUB_CACHE (or its old name HUGGINGFACE_HUB_CACHE), else HF_HOME/hub, HF_HOME being ~/.cache/huggingface; HF_TOKEN, else the file
 * HF_TOKEN_PATH or HF_HOME/token; HF_HUB_OFFLINE.
 * @throws UserError when HF_ENDPOINT is no address, or the token cannot be sent. Neither a token nor a password is ever part of a message.
 */
export function hubSettings(env: NodeJS.ProcessEnv = process.env): HubSettings {
  const endpoint = (env.HF_ENDPOINT || 'https://huggingface.co').replace(/\/+$/, '');
  const address = URL.parse(endpoint);
  if (address?.username || address?.password || endpoint.includes('@')) {
    throw new UserError('HF_ENDPOINT should have no user name or password in it; a token goes into HF_TOKEN');
  }
  if (!/^https?:$/.test(address?.protocol ?? '')) {
    throw new UserError(`HF_ENDPOINT should be an address such as https://huggingface.co, not ${endpoint}`);
  }
  const home = homeFolder(env.HF_HOME || join(env.XDG_CACHE_HOME || join(homedir(), '.cache'), 'huggingface'));
  const cache = env.HF_HUB_CACHE || env.HUGGINGFACE_HUB_CACHE || join(home, 'hub');
  return {
    endpoint,
    cache: homeFolder(cache),
    token: findToken(env, homeFolder(env.HF_TOKEN_PATH || join(home, 'token'))),
    offline: /^(1|on|yes|true)$/i.test(env.HF_HUB_OFFLINE ?? ''),
  };
}

function homeFolder(path: string): string {
  return path === '~' || path.startsWith('~/') ? join(homedir(), path.slice(1)) : path;
}

function findToken(env: NodeJS.ProcessEnv, file: string): string | undefined {
  for (const name of ['HF_TOKEN', 'HUGGING_FACE_HUB_TOKEN']) {
    const value = env[name]?.trim();
    if (value) return checkToken(value, name);
  }
  try {
    return checkToken(readFileSync(file, 'utf8').trim(), file) || undefined;
  } catch (error) {
    if (error instanceof UserError) throw error;
    return undefined; // Most data needs no token; the server says when it does.
  }
}

/** A token goes into a header, which holds no line break, blank or letter beyond ASCII. */
function checkToken(token: string, source: string): string {
  if (/^[!-~]*$/.test(token)) return token;
  throw new UserError(
    `the token in ${source} holds a line break, a blank or another character that no token has; it should be one word such as hf_..`,
  );
}
