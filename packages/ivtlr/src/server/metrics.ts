/** Counters for Prometheus, named as vLLM names its own where it has the same. */
import { Counter, Gauge, Histogram, Registry } from 'prom-client';
import type { Engine } from './engine.ts';

const SECONDS = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300];
const TOKEN_SECONDS = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5];

export class Metrics {
  readonly registry = new Registry();
  readonly requests = this.#counter('http_requests_total', 'Requests by route and status', ['route', 'status']);
  readonly finished = this.#counter('request_success_total', 'Answers by why they ended', ['finished_reason']);
  readonly promptTokens = this.#counter('prompt_tokens_total', 'Prompt tokens of answered questions');
  readonly generatedTokens = this.#counter('generation_tokens_total', 'Written tokens');
  readonly latentSteps = this.#counter('latent_steps_total', 'Latent steps');
  readonly firstToken = this.#histogram('time_to_first_token_seconds', 'From the request to the first text', SECONDS);
  readonly perToken = this.#histogram(
    'time_per_output_token_seconds',
    'Mean time of a written token, by answer',
    TOKEN_SECONDS,
  );
  readonly prefill = this.#histogram('request_prefill_time_seconds', "The question's share of prompt passes", SECONDS);
  readonly queueTime = this.#histogram('request_queue_time_seconds', 'From the request to joining the batch', SECONDS);
  readonly whole = this.#histogram('e2e_request_latency_seconds', 'From the request to the end of the answer', SECONDS);

  /** @param engines of all models, whose numbers are added up */
  constructor(engines: readonly Engine[]) {
    const sum = (of: (engine: Engine) => number) => engines.reduce((total, engine) => total + of(engine), 0);
    const gauges: [string, string, () => number][] = [
      ['num_requests_running', 'Questions in the batch', () => sum(({ stats }) => stats.running)],
      [
        'num_requests_waiting',
        'Questions that wait',
        () => sum(({ queued, inHand, stats }) => queued + Math.max(0, inHand - stats.running)),
      ],
      ['cache_bytes', 'Bytes of keys and values', () => sum(({ stats }) => stats.cacheBytes)],
      ['cache_budget_bytes', 'Bytes that keys and values may take', () => sum(({ info }) => info.cacheBytes)],
      [
        'kv_cache_usage_perc',
        'Share of that budget in use',
        () => sum(({ stats }) => stats.cacheUsedBytes) / sum(({ info }) => info.cacheBytes),
      ],
      [
        'engine_resident_bytes',
        "Resident memory of the engines' processes",
        () => sum(({ stats }) => stats.residentBytes),
      ],
      ['engine_live_tensors', 'Tensors that the engines hold', () => sum(({ stats }) => stats.liveTensors)],
      ['server_resident_bytes', "Resident memory of the server's process", () => process.memoryUsage.rss()],
      [
        'server_cpu_seconds',
        "CPU time of the server's process",
        () => process.cpuUsage().user / 1e6 + process.cpuUsage().system / 1e6,
      ],
      ['engine_restarts', 'Times an engine was started again', () => sum(({ restarts }) => restarts)],
      [
        'engine_up',
        'Whether every engine has its model',
        () => Number(engines.every(({ state }) => state === 'ready')),
      ],
    ];
    for (const [name, help, value] of gauges)
      new Gauge({
        ...{ name: `ivtlr:${name}`, help, registers: [this.registry] },
        collect() {
          this.set(value());
        },
      });
  }

  #counter<T extends string>(name: string, help: string, labelNames: readonly T[] = []): Counter<T> {
    return new Counter<T>({ name: `ivtlr:${name}`, help, labelNames: [...labelNames], registers: [this.registry] });
  }

  #histogram(name: string, help: string, buckets: number[]): Histogram {
    return new Histogram({ name: `ivtlr:${name}`, help, buckets, registers: [this.registry] });
  }
}
