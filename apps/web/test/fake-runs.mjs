// Training runs with made-up metrics: two that ended and one that seems to go on.

/** @returns {{ summary: object, lines: object[], checkpoints: string[], ablations: object[] }[]} */
export function fakeRuns() {
  return [
    run('dominoes', 1600, 0.004, false, 1),
    run('dominoes-detached', 1600, 0.0028, false, 2),
    run('seed 2', 900, 0.0045, true, 3),
  ];
}

function run(name, steps, speed, running, seed) {
  const lines = [];
  const noise = (step) => Math.abs(Math.sin((step + 1) * seed * 78.233) * 43758.5453) % 1;
  const phases = [
    ['pretrain', 0],
    ['stage-0', 700],
    ['stage-1', 940],
    ['stage-2', 1060],
    ['stage-3', 1240],
  ];
  for (let step = 10; step <= steps; step += 10) {
    const [phase, start] = phases.findLast(([, first]) => step > first);
    const loss = 6 * Math.exp(-step * speed) + 0.05 + 0.4 * Math.exp(-(step - start) / 40) + 0.12 * noise(step);
    const stage = phase === 'pretrain' ? 0 : Number(phase.at(-1));
    const common = { step, phase, epoch: Math.floor(step / 120), stage };
    lines.push({
      ...{ kind: 'step', ...common, loss, crossEntropy: loss, tokenAccuracy: Math.max(0.05, 1 - loss / 4) },
      ...{
        lr: Math.min(step / 100, 1) * 0.001 * (1 - step / 2000),
        gradNorm: 1 + 6 * noise(step + 7) * Math.exp(-step / 500),
      },
      samplesPerSecond: 180 + 60 * noise(step + 3),
    });
    if (step % 120 === 0 && step > 700)
      lines.push({
        kind: 'validation',
        ...common,
        accuracy: Math.min(1, 1.02 - loss / 5),
        samples: 200,
        autoregressiveSteps: 23 - 3 * stage,
      });
  }
  const updated = running ? Date.now() : Date.parse('2026-01-05T10:00:00Z');
  const summary = {
    name,
    task: 'dominoes',
    mode: 'ivt-lr',
    model: 'runs/models/pretrain',
    steps,
    totalSteps: 1600,
    running,
    updated,
  };
  return {
    summary,
    lines,
    checkpoints: steps >= 1600 ? ['step-000940', 'step-001240', 'step-001600'] : [],
    ablations: name === 'dominoes' ? [ablations()] : [],
  };
}

function ablations() {
  const row = (key, title, latents, right) => ({
    ...{ key, title, latents, problem: null },
    result: {
      ...{ accuracy: right / 50, accuracyOfficial: right / 50, samples: 50, secondsPerSample: 0.02 },
      interval95: [Math.max(0, right / 50 - 0.1), Math.min(1, right / 50 + 0.07)],
    },
    versus:
      key === 'full'
        ? null
        : {
            ...{ difference: right / 50 - 1, lost: 50 - right, gained: 0, textChanged: 1 - right / 50 },
            interval95: [right / 50 - 1.1, Math.min(0, right / 50 - 0.93)],
          },
  });
  return {
    ...{ file: 'ablations.json', model: 'runs/dominoes/model', task: 'dominoes', split: 'test', trainedLatents: 3 },
    rows: [
      row('full', 'full, T = 3', 3, 50),
      row('zero-latents', 'zero latent steps, T = 0', 0, 6),
      row('repeats-allowed', 'repeats allowed, T = 3', 3, 50),
      {
        key: 'no',
        title: 'no row at all, T = 3',
        latents: 3,
        result: null,
        problem: 'a step has nothing',
        versus: null,
      },
    ],
  };
}
