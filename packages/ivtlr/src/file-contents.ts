/** Files that are described first and written later: at once, or by another thread while their tensors go on changing. */
import { join } from 'node:path';
import {
  type HostMemory,
  type HostTensor,
  isHostTensor,
  type StoredTensor,
  safetensorsParts,
  saveSafetensors,
} from '@ivtlr/torch';
import { writeFileAtomic } from './files.ts';

/** The content of a safetensors file. Tensors are the live ones, or copies in host memory. */
export interface TensorContent {
  tensors: ReadonlyMap<string, StoredTensor>;
  metadata: Readonly<Record<string, string>>;
}

/** One file of a folder; a text is written as UTF-8. */
export interface FileContent {
  /** Within its folder. */
  name: string;
  content: string | Uint8Array | TensorContent;
}

/** A file whose bytes nothing changes any more: `parts`, one after the other. */
export interface FrozenFile {
  name: string;
  parts: Uint8Array[];
}

export function jsonFile(name: string, value: unknown): FileContent {
  return { name, content: `${JSON.stringify(value, null, 2)}\n` };
}

/** Writes files into an existing folder now, each whole or not at all. @throws UserError when one cannot be written */
export function writeFiles(folder: string, files: readonly FileContent[]): void {
  for (const { name, content } of files) {
    const path = join(folder, name);
    if (isTensors(content)) saveSafetensors(path, content.tensors, content.metadata);
    else writeFileAtomic(path, content);
  }
}

/** Copies what the files hold: tensors later (`HostMemory.copyLater`), except those that are host copies already. */
export function freezeFiles(files: readonly FileContent[], memory: HostMemory): FrozenFile[] {
  return files.map(({ name, content }) => {
    if (typeof content === 'string') return { name, parts: [Buffer.from(content, 'utf8')] };
    if (!isTensors(content)) return { name, parts: [content] };
    const tensors = new Map<string, HostTensor>();
    for (const [key, value] of content.tensors) tensors.set(key, isHostTensor(value) ? value : memory.copyLater(value));
    return { name, parts: safetensorsParts(name, tensors, content.metadata) };
  });
}

function isTensors(content: FileContent['content']): content is TensorContent {
  return typeof content === 'object' && 'tensors' in content;
}
