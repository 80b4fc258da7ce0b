/**
 * TensorBoard event files with scalars. Format: TFRecord framing (length, masked CRC-32C of the length, data, masked CRC-32C of the data; little
 * endian) around Event messages in Protocol Buffers' wire format (tensorflow/core/util/event.proto and summary.proto).
 */
import { appendFileSync } from 'node:fs';
import { hostname } from 'node:os';
import { join } from 'node:path';
import { UserError } from '../errors.ts';
import { makeFolder } from '../files.ts';

export class EventWriter {
  readonly path: string;

  /**
   * Starts a new file; TensorBoard joins all files of a folder.
   * @param purgeFrom a resumed run repeats the steps from here on: TensorBoard drops what earlier files say about them
   */
  constructor(
    folder: string,
    { purgeFrom = null, now = Date.now() }: { purgeFrom?: number | null; now?: number } = {},
  ) {
    makeFolder(folder);
    // TensorBoard reads files in the order of their names, hence the fixed width.
    const seconds = String(Math.floor(now / 1000)).padStart(10, '0');
    const millis = String(now % 1000).padStart(3, '0');
    this.path = join(folder, `events.out.tfevents.${seconds}.${millis}.${process.pid}.${hostname()}`);
    const version = field(3, 'brain.Event:2');
    const start = purgeFrom === null ? [] : [varintField(2, purgeFrom), message(7, [varintField(1, 1)])];
    this.#append(record(Buffer.concat([doubleField(1, now / 1000), version])));
    if (start.length > 0) this.#append(record(Buffer.concat([doubleField(1, now / 1000), ...start])));
  }

  /** Adds one event with these scalars, by tag such as `train/loss`. Flushed at once, so that a crash loses nothing. */
  scalars(step: number, values: Readonly<Record<string, number>>, now = Date.now()): void {
    const summary = Object.entries(values).map(([tag, value]) => message(1, [field(1, tag), floatField(2, value)]));
    const event = [doubleField(1, now / 1000), varintField(2, step), message(5, summary)];
    this.#append(record(Buffer.concat(event)));
  }

  #append(bytes: Buffer): void {
    try {
      appendFileSync(this.path, bytes);
    } catch (error) {
      throw new UserError(`cannot write ${this.path}: ${(error as Error).message}`);
    }
  }
}

function record(data: Buffer): Buffer {
  const length = Buffer.alloc(8);
  length.writeBigUInt64LE(BigInt(data.length));
  return Buffer.concat([length, checksum(length), data, checksum(data)]);
}

/** TFRecord's "masked" checksum: rotated and shifted, so that the checksum of data which itself holds checksums does not come out constant. */
function checksum(data: Uint8Array): Buffer {
  const crc = crc32c(data);
  const masked = (((crc >>> 15) | (crc << 17)) + 0xa282ead8) >>> 0;
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32LE(masked);
  return bytes;
}

const table = Uint32Array.from({ length: 256 }, (_, byte) => {
  let value = byte;
  for (let bit = 0; bit < 8; bit++) value = value & 1 ? (value >>> 1) ^ 0x82f63b78 : value >>> 1;
  return value;
});

/** CRC-32C (Castagnoli) of the bytes, as an unsigned 32-bit number. */
export function crc32c(data: Uint8Array): number {
  let crc = 0xffffffff;
  for (const byte of data) crc = table[(crc ^ byte) & 0xff]! ^ (crc >>> 8);
  return (crc ^ 0xffffffff) >>> 0;
}

function varint(value: number): Buffer {
  const bytes: number[] = [];
  for (let rest = BigInt(value); ; rest >>= 7n) {
    const low = Number(rest & 0x7fn);
    if (rest < 128n) return Buffer.from([...bytes, low]);
    bytes.push(low | 0x80);
  }
}

const WIRE = { varint: 0, fixed64: 1, bytes: 2, fixed32: 5 };

const key = (number: number, wire: number) => varint(number * 8 + wire);
const varintField = (number: number, value: number) => Buffer.concat([key(number, WIRE.varint), varint(value)]);

function field(number: number, text: string): Buffer {
  const bytes = Buffer.from(text, 'utf8');
  return Buffer.concat([key(number, WIRE.bytes), varint(bytes.length), bytes]);
}

function message(number: number, parts: readonly Buffer[]): Buffer {
  const body = Buffer.concat(parts);
  return Buffer.concat([key(number, WIRE.bytes), varint(body.length), body]);
}

function doubleField(number: number, value: number): Buffer {
  const bytes = Buffer.alloc(8);
  bytes.writeDoubleLE(value);
  return Buffer.concat([key(number, WIRE.fixed64), bytes]);
}

function floatField(number: number, value: number): Buffer {
  const bytes = Buffer.alloc(4);
  bytes.writeFloatLE(value);
  return Buffer.concat([key(number, WIRE.fixed32), bytes]);
}
