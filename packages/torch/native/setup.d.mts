export interface Libtorch {
  folder: string;
  version: string;
  source: string;
}
/** What keeps libtorch from being used, and what to do about it. */
export declare class SetupError extends Error {}
/** The command for a user to set up with. */
export declare function setupCommand(): string;
/** The libtorch that is used, without looking around. */
export declare function findLibtorch(): Libtorch | null;
/** The built addon and the libtorch it links. */
export declare function findAddon(): { file: string; libtorch: Libtorch } | null;
/** Finds or fetches libtorch and builds the addon, if that is not done yet. @throws SetupError when no libtorch can be used */
export declare function setup(log: (line: string) => void): { file: string; libtorch: Libtorch };
