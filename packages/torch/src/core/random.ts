import type { Device } from './dtype.ts';
import { native } from './native.ts';
import { type Tensor, wrap } from './tensor.ts';

/** Seeds the default generators of every device. */
export function manualSeed(seed: number | bigint): void {
  native.manualSeed(seed);
}

/** State of a device's default generator: a uint8 tensor to give back to setRngState() for bit-exact continuation. */
export function getRngState(device: Device = 'cpu'): Tensor {
  return wrap(native.rngState(device) as number);
}

export function setRngState(state: Tensor, device: Device = 'cpu'): void {
  native.rngState(device, state);
}

const finalizer = new FinalizationRegistry<number>((id) => native.freeGenerator(id));

/** A CPU random number generator of its own, for ops that take one. */
export class Generator {
  readonly generatorId: number;

  constructor(seed: number | bigint = 0) {
    this.generatorId = native.newGenerator(seed);
    finalizer.register(this, this.generatorId);
  }
  get state(): Tensor {
    return wrap(native.rngState(this.generatorId) as number);
  }
  set state(state: Tensor) {
    native.rngState(this.generatorId, state);
  }
}
