/** A table of bytes by name that all processes of a group share (c10d's TCPStore). Its server is rank 0, or the launcher. */
import { native } from '../core/native.ts';

export interface StoreOptions {
  host: string;
  /** 0, for a server: a free one. */
  port: number;
  /** Serve it in this process. */
  isServer: boolean;
  /** Seconds to wait for the server, and by default for keys. */
  timeout: number;
  /** Put before every key. */
  prefix?: string;
}

export interface WaitOptions {
  /** Seconds; default: the store's. */
  timeout?: number;
}

export class Store implements Disposable {
  readonly host: string;
  readonly port: number;
  readonly timeout: number;
  readonly #id: number;

  /** @throws TorchError when the server is not reached within the timeout, or its port is taken */
  constructor({ host, port, isServer, timeout, prefix = '' }: StoreOptions) {
    const [id, found] = native.openStore(host, port, isServer, 0, Math.ceil(timeout * 1000), prefix);
    this.#id = id;
    this.host = host;
    this.port = found;
    this.timeout = timeout;
  }

  /** For process groups. */
  get id(): number {
    return this.#id;
  }

  /** @throws TorchError when the server does not take it within the timeout */
  set(key: string, value: string | Uint8Array, { timeout = this.timeout }: WaitOptions = {}): void {
    const bytes = typeof value === 'string' ? new TextEncoder().encode(value) : value;
    native.storeSet(this.#id, key, bytes, Math.ceil(timeout * 1000));
  }

  /** Waits until the key is there. @throws TorchError after the timeout */
  get(key: string, { timeout = this.timeout }: WaitOptions = {}): Uint8Array {
    return native.storeGet(this.#id, key, Math.ceil(timeout * 1000));
  }

  /** As `get`, decoded as UTF-8. */
  getText(key: string, options: WaitOptions = {}): string {
    return new TextDecoder().decode(this.get(key, options));
  }

  /** Adds to a counter, which starts at 0; returns the sum. */
  add(key: string, amount: number): number {
    return native.storeAdd(this.#id, key, amount);
  }

  /** @throws TorchError when a key is not there after the timeout */
  wait(keys: readonly string[], { timeout = this.timeout }: WaitOptions = {}): void {
    native.storeWait(this.#id, keys, Math.ceil(timeout * 1000));
  }

  /** Whether all keys are there now. */
  check(keys: readonly string[], { timeout = this.timeout }: WaitOptions = {}): boolean {
    return native.storeCheck(this.#id, keys, Math.ceil(timeout * 1000));
  }

  /** Whether there was such a key. */
  delete(key: string): boolean {
    return native.storeDelete(this.#id, key);
  }

  dispose(): void {
    native.closeStore(this.#id);
  }

  [Symbol.dispose](): void {
    this.dispose();
  }
}
