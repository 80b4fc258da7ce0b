/** Where the hub keeps the data of tasks. Loads nothing, so that --help is instant. */
export const DATASETS: Readonly<Record<string, { repo: string; licence: string }>> = {
  m3cot: { repo: 'LightChen2333/M3CoT', licence: 'CC BY-SA 4.0' },
  scienceqa: { repo: 'derek-thomas/ScienceQA', licence: 'CC BY-NC-SA 4.0' },
};
