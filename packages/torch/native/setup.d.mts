export interface Libtorch {
  folder: string;
  version: string;
  source: string;
}
/** What keeps libtorch from being used, and what to do about it. */
export declare class SetupError extends Error {}
/** The command for a user to set up with. @param flag `--cpu`, or none */
export declare function setupCommand(flag?: string): string;
/** The libtorch that is used, without looking around. */
export declare function findLibtorch(): Libtorch | null;
/** The built addon and the libtorch it links. */
export declare function findAddon(): { file: string; libtorch: Libtorch } | null;
/** Whether there is an NVIDIA driver. */
export declare function hasNvidia(): boolean;
/** Why the addon cannot be loaded, in a sentence: names the package that brings a library which is missing. @param folder of the libtorch */
export declare function explainLoading(reason: string, folder: string): string;
/**
 * Finds or fetches libtorch and builds the addon, if that is not done yet.
 * @param options.cpu true for a libtorch without CUDA whatever the machine has, remembered until a set-up with false
 * @throws SetupError when no libtorch can be used
 */
export declare function setup(
  log: (line: string) => void,
  options?: { cpu?: boolean },
): { file: string; libtorch: Libtorch };
