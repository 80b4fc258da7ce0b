/**
 * A forward pass cut into segments whose backward passes run one after the other, driven from TypeScript.
 *
 * Between two segments the graph is cut: what a segment gives is handed on as a leaf, its border, which collects the gradient of everything that
 * comes later. `backward()` then walks the segments from the last to the first, and each is a backward pass of its own. So a caller can act
 * between them: bring parameters into memory before they are read and put them away afterwards, send gradients as soon as they are complete, or
 * run a segment a second time instead of keeping its activations.
 */
import { backward } from '../core/autograd.ts';
import { scope } from '../core/scope.ts';
import type { Tensor } from '../core/tensor.ts';
import { checkpoint } from './checkpoint.ts';

/** Hears where a pass is. Parts are groups of a model's parameters, by name. */
export interface SegmentObserver {
  /** The parameters of exactly these parts are read next, until the following call. */
  require(parts: readonly string[]): void;
  /** This pass adds nothing more to the gradients of the part's parameters. */
  gradientsComplete(part: string): void;
}

export interface SegmentOptions {
  /** Whose parameters the segment reads; none when it only takes apart what earlier ones gave. */
  parts: readonly string[];
  /** Used by passes that go back depth by depth: a segment depends on lesser depths, and on earlier segments of its own. */
  depth: number;
}

interface Segment extends SegmentOptions {
  borders: Tensor[];
  /** Gives the borders' gradients to the graph behind them. */
  backward(borders: readonly Tensor[]): void;
  dispose(): void;
}

/** Call everything inside one scope: borders and graphs belong to it. */
export class SegmentedPass {
  readonly #observer: SegmentObserver | null;
  readonly #byDepth: boolean;
  readonly #segments: Segment[] = [];

  /**
   * @param byDepth go back by depth, the greatest first, instead of from the last segment to the first. Possible when no segment depends on a
   * later one's depth; each part is then visited once, however often the pass went through it.
   */
  constructor(observer: SegmentObserver | null, { byDepth = false }: { byDepth?: boolean } = {}) {
    this.#observer = observer;
    this.#byDepth = byDepth;
  }

  /**
   * Runs `body`, whose graph may begin at parameters and at borders of earlier segments, and gives back its outputs: those that carry a graph
   * are replaced by their borders.
   */
  run<T extends readonly Tensor[]>(options: SegmentOptions, body: () => T): T {
    this.#require(options);
    const outputs = scope(body);
    if (!outputs.some(({ requiresGrad }) => requiresGrad)) return outputs;
    const made: Tensor[] = [];
    const borders: Tensor[] = [];
    const handedOn = outputs.map((output) => {
      if (!output.requiresGrad) return output;
      const border = output.detach();
      border.requiresGrad = true;
      made.push(output);
      borders.push(border);
      return border;
    });
    this.#segments.push({
      ...options,
      borders,
      backward: (reached) => {
        const pairs = reached.map((border) => [made[borders.indexOf(border)]!, border.grad] as const);
        backward(
          pairs.map(([output]) => output),
          pairs.map(([, gradient]) => gradient),
        );
      },
      dispose: () => {
        for (const tensor of [...made, ...borders]) tensor.dispose();
      },
    });
    return handedOn as unknown as T;
  }

  /**
   * As `run`, without keeping activations: `body` runs again, with the same random numbers, when its gradient is wanted.
   * @param input a border or a constant; it says which devices' random numbers are meant
   */
  runTwice(options: SegmentOptions, input: Tensor, body: (input: Tensor) => Tensor): Tensor {
    this.#require(options);
    // The border is a leaf, so its gradient is collected without being handed through.
    const call = checkpoint(() => body(input), [input], { needsGrad: [false] });
    const border = call.output.detach();
    border.requiresGrad = true;
    this.#segments.push({
      ...options,
      borders: [border],
      backward: () => {
        call.backward(border.grad!);
      },
      dispose: () => {
        call.dispose();
        border.dispose();
      },
    });
    return border;
  }

  /** What reads no parameters leaves those of the parts before it where they are. */
  #require({ parts }: SegmentOptions): void {
    if (parts.length > 0) this.#observer?.require(parts);
  }

  /** Carries the gradients that the borders have collected into the parameters' `.grad`. Once. */
  backward(): void {
    const order = this.#segments.splice(0).reverse();
    // Stable, so that segments of one depth stay in their order.
    if (this.#byDepth) order.sort((a, b) => b.depth - a.depth);
    const last = new Map<string, Segment>();
    for (const segment of order) for (const part of segment.parts) last.set(part, segment);
    for (const segment of order) {
      scope(() => {
        const reached = segment.borders.filter(({ hasGrad }) => hasGrad);
        if (reached.length > 0) {
          this.#require(segment);
          segment.backward(reached);
        }
        segment.dispose();
      });
      for (const part of segment.parts) if (last.get(part) === segment) this.#observer?.gradientsComplete(part);
    }
  }
}
