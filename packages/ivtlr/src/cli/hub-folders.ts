/** Folders that flags name, fetched from the hub where they are its names, with what that shows on the terminal. */
import * as engine from '../engine/find-folder.ts';
import * as hub from '../hub/resolve.ts';
import { hubProgress } from './hub-progress.ts';

export const modelFolder = (name: string) => engine.modelFolder(name, hubProgress());
export const dataFolder = (name: string) => hub.dataFolder(name, hubProgress());
export const checkpointFile = (name: string) => hub.checkpointFile(name, hubProgress());
