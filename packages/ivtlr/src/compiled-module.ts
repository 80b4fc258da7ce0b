/**
 * Where a module beside the caller lies in compiled form, whichever form the caller runs in: threads of this Node cannot load TypeScript.
 * @param name without extension, such as './prepare'.
 */
export function compiledModule(name: string, callerUrl: string): URL {
  const source = callerUrl.lastIndexOf('/src/');
  const base = callerUrl.endsWith('.ts')
    ? `${callerUrl.slice(0, source)}/dist/${callerUrl.slice(source + 5)}`
    : callerUrl;
  return new URL(`${name}.js`, base);
}
