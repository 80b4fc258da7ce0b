export interface Libtorch {
  folder: string;
  version: string;
  source: string;
}
export declare class SetupError extends Error {}
export declare function findLibtorch(): Libtorch | null;
export declare function findAddon(): { file: string; libtorch: Libtorch } | null;
export declare function setup(log: (line: string) => void): { file: string; libtorch: Libtorch };
