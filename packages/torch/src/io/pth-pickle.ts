/**
 * The part of Python's pickle that a state dict needs, as a closed little machine. Nothing is ever imported or called: names stand for
 * themselves, and the caller decides which ones may be applied to what. Opcodes: CPython's Lib/pickletools.py; protocol 2, which is what
 * torch.save writes. The machine only walks forwards and never recurses, so its time is bounded by the pickle's length.
 */
import { CheckpointError } from './errors.ts';
import { kindOf, PickleDict, PickleGlobal, PickleList, PickleTuple, type Value } from './pth-values.ts';
import { quote } from './safetensors-header.ts';

/** 16 MiB hold the names of some fifty thousand tensors. */
export const MAX_PICKLE_BYTES = 2 ** 24;
/** One byte can make an object of a hundred, so the objects are counted too; a tensor takes about 25 opcodes. */
const MAX_OPCODES = 1_000_000;
const MAX_DEPTH = 100;

/** What the names and references of a pickle may mean. Each throws CheckpointError for what it does not know. */
export interface Resolver {
  /** Called when a name is first mentioned, before anything is done with it. */
  allows(name: string): boolean;
  call(name: string, args: readonly Value[]): Value;
  persistent(id: Value): Value;
}

/** Opcodes that are refused, by the names pickletools gives them, for a message one can look up. */
const REFUSED = new Map([
  [0x30, 'POP'],
  [0x31, 'POP_MARK'],
  [0x32, 'DUP'],
  [0x42, 'BINBYTES'],
  [0x43, 'SHORT_BINBYTES'],
  [0x46, 'FLOAT'],
  [0x49, 'INT'],
  [0x4c, 'LONG'],
  [0x50, 'PERSID'],
  [0x53, 'STRING'],
  [0x54, 'BINSTRING'],
  [0x55, 'SHORT_BINSTRING'],
  [0x56, 'UNICODE'],
  [0x64, 'DICT'],
  [0x67, 'GET'],
  [0x69, 'INST'],
  [0x6c, 'LIST'],
  [0x6f, 'OBJ'],
  [0x70, 'PUT'],
  [0x81, 'NEWOBJ'],
  [0x82, 'EXT1'],
  [0x83, 'EXT2'],
  [0x84, 'EXT4'],
  [0x8b, 'LONG4'],
  [0x8c, 'SHORT_BINUNICODE'],
  [0x8d, 'BINUNICODE8'],
  [0x8e, 'BINBYTES8'],
  [0x8f, 'EMPTY_SET'],
  [0x90, 'ADDITEMS'],
  [0x91, 'FROZENSET'],
  [0x92, 'NEWOBJ_EX'],
  [0x93, 'STACK_GLOBAL'],
  [0x94, 'MEMOIZE'],
  [0x95, 'FRAME'],
  [0x96, 'BYTEARRAY8'],
  [0x97, 'NEXT_BUFFER'],
  [0x98, 'READONLY_BUFFER'],
]);

/** Runs a pickle and returns its value. `source` begins every message. Throws CheckpointError. */
export function unpickle(bytes: Uint8Array, resolver: Resolver, source: string): Value {
  return new Machine(bytes, resolver, source).run();
}

class Machine {
  readonly #bytes: Uint8Array;
  readonly #view: DataView;
  readonly #resolver: Resolver;
  readonly #source: string;
  readonly #memo = new Map<number, Value>();
  readonly #outer: Value[][] = [];
  readonly #text = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true });
  #stack: Value[] = [];
  #at = 0;

  constructor(bytes: Uint8Array, resolver: Resolver, source: string) {
    this.#bytes = bytes;
    this.#view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    this.#resolver = resolver;
    this.#source = source;
  }

  run(): Value {
    if (this.#bytes[0] !== 0x80) this.#fail('does not start as a pickle of protocol 2');
    for (let count = 0; count < MAX_OPCODES; count++) {
      const opcode = this.#byte();
      if (opcode !== 0x2e) {
        this.#step(opcode);
        continue;
      }
      const value = this.#pop();
      if (this.#stack.length > 0 || this.#outer.length > 0) this.#fail('ends with values left over');
      if (this.#at !== this.#bytes.length) this.#fail(`has ${this.#bytes.length - this.#at} bytes after its end`);
      return value;
    }
    return this.#fail(`has more than ${MAX_OPCODES} opcodes, no checkpoint needs that many`);
  }

  #step(opcode: number): void {
    const literal = this.#literal(opcode);
    if (literal === undefined) this.#act(opcode);
    else this.#push(literal);
  }

  /** The value of an opcode that only pushes one; undefined for all others. */
  #literal(opcode: number): Value | undefined {
    switch (opcode) {
      case 0x4e: // NONE
        return null;
      case 0x88: // NEWTRUE
        return true;
      case 0x89: // NEWFALSE
        return false;
      case 0x4b: // BININT1
        return this.#byte();
      case 0x4d: // BININT2
        return this.#view.getUint16(this.#take(2), true);
      case 0x4a: // BININT
        return this.#view.getInt32(this.#take(4), true);
      case 0x8a: // LONG1
        return this.#long(this.#byte());
      case 0x47: // BINFLOAT
        return this.#view.getFloat64(this.#take(8), false);
      case 0x58: // BINUNICODE
        return this.#string(this.#uint32());
      case 0x29: // EMPTY_TUPLE
        return new PickleTuple([]);
      case 0x5d: // EMPTY_LIST
        return new PickleList();
      case 0x7d: // EMPTY_DICT
        return new PickleDict();
      case 0x68: // BINGET
        return this.#recall(this.#byte());
      case 0x6a: // LONG_BINGET
        return this.#recall(this.#uint32());
      case 0x63: // GLOBAL
        return this.#global();
      default:
        return undefined;
    }
  }

  #act(opcode: number): void {
    switch (opcode) {
      case 0x80: // PROTO
        this.#protocol(this.#byte());
        break;
      case 0x28: // MARK
        if (this.#outer.length >= MAX_DEPTH) this.#fail(`is nested more than ${MAX_DEPTH} deep`);
        this.#outer.push(this.#stack);
        this.#stack = [];
        break;
      case 0x85: // TUPLE1, 2, 3
      case 0x86:
      case 0x87:
        this.#push(new PickleTuple(this.#popMany(opcode - 0x84)));
        break;
      case 0x74: // TUPLE
        this.#push(new PickleTuple(this.#popMark()));
        break;
      case 0x61: // APPEND
        this.#append(this.#popMany(1));
        break;
      case 0x65: // APPENDS
        this.#append(this.#popMark());
        break;
      case 0x73: // SETITEM
        this.#setItems(this.#popMany(2));
        break;
      case 0x75: // SETITEMS
        this.#setItems(this.#popMark());
        break;
      case 0x71: // BINPUT
        this.#memo.set(this.#byte(), this.#top());
        break;
      case 0x72: // LONG_BINPUT
        this.#memo.set(this.#uint32(), this.#top());
        break;
      case 0x52: // REDUCE
        this.#reduce();
        break;
      case 0x62: // BUILD
        this.#build();
        break;
      case 0x51: // BINPERSID
        this.#push(this.#resolver.persistent(this.#pop()));
        break;
      default:
        this.#refuse(opcode);
    }
  }

  #protocol(version: number): void {
    if (version !== 2) this.#fail(`has protocol ${version}; only 2, torch.save's own, is read`);
  }

  #refuse(opcode: number): never {
    this.#at--;
    const name = REFUSED.get(opcode) ?? `0x${opcode.toString(16).padStart(2, '0')}`;
    return this.#fail(`uses the opcode ${name}, which no state dict needs; it is refused`);
  }

  #fail(what: string): never {
    throw new CheckpointError(`${this.#source} ${what} (at byte ${this.#at})`);
  }

  #take(count: number): number {
    const at = this.#at;
    if (count > this.#bytes.length - at) this.#fail('is truncated');
    this.#at += count;
    return at;
  }

  #uint32(): number {
    return this.#view.getUint32(this.#take(4), true);
  }

  #byte(): number {
    return this.#bytes[this.#take(1)]!;
  }

  #string(length: number): string {
    const at = this.#take(length);
    try {
      return this.#text.decode(this.#bytes.subarray(at, at + length));
    } catch {
      return this.#fail('has a string that is not UTF-8');
    }
  }

  #long(length: number): number | bigint {
    if (length > 8) this.#fail(`has an integer of ${length} bytes`);
    const at = this.#take(length);
    let value = 0n;
    for (let i = length - 1; i >= 0; i--) value = (value << 8n) | BigInt(this.#bytes[at + i]!);
    value = BigInt.asIntN(8 * length, value);
    return Number.isSafeInteger(Number(value)) ? Number(value) : value;
  }

  #push(value: Value): void {
    this.#stack.push(value);
  }

  #pop(): Value {
    const value = this.#stack.pop();
    return value === undefined ? this.#fail('takes a value that is not there') : value;
  }

  #top(): Value {
    if (this.#stack.length === 0) this.#fail('works on a value that is not there');
    return this.#stack.at(-1)!;
  }

  #popMany(count: number): Value[] {
    if (this.#stack.length < count) this.#fail('takes values that are not there');
    return this.#stack.splice(-count);
  }

  #popMark(): Value[] {
    const items = this.#stack;
    this.#stack = this.#outer.pop() ?? this.#fail('closes a group that was never opened');
    return items;
  }

  #recall(index: number): Value {
    const value = this.#memo.get(index);
    return value === undefined ? this.#fail(`recalls value ${index}, which it never stored`) : value;
  }

  #append(items: readonly Value[]): void {
    const list = this.#top();
    if (!(list instanceof PickleList)) this.#fail(`appends to ${kindOf(list)}`);
    for (const item of items) list.items.push(item);
  }

  #setItems(items: readonly Value[]): void {
    const dict = this.#top();
    if (!(dict instanceof PickleDict)) this.#fail(`sets items of ${kindOf(dict)}`);
    if (items.length % 2 !== 0) this.#fail('sets an item without a value');
    for (let i = 0; i < items.length; i += 2) {
      const key = items[i]!;
      if (typeof key === 'object') this.#fail(`has a dictionary whose key is ${kindOf(key)}`);
      if (dict.entries.has(key)) this.#fail(`lists the key ${quote(String(key))} twice`);
      dict.entries.set(key, items[i + 1]!);
    }
  }

  #global(): PickleGlobal {
    const full = `${this.#line()}.${this.#line()}`;
    if (!this.#resolver.allows(full))
      this.#fail(`names ${quote(full)}, which is no part of a state dict; it is refused and nothing was run`);
    return new PickleGlobal(full);
  }

  #line(): string {
    const end = this.#bytes.indexOf(0x0a, this.#at);
    if (end < 0) this.#fail('is truncated');
    const text = this.#string(end - this.#at);
    this.#at++;
    return text;
  }

  #reduce(): void {
    const [callable, args] = this.#popMany(2) as [Value, Value];
    if (!(callable instanceof PickleGlobal)) this.#fail(`calls ${kindOf(callable)}`);
    if (!(args instanceof PickleTuple)) this.#fail(`calls ${quote(callable.name)} with ${kindOf(args)}`);
    this.#push(this.#resolver.call(callable.name, args.items));
  }

  /** Module.state_dict() hangs its version table on the dictionary as an attribute; attributes say nothing about tensors. */
  #build(): void {
    const [object, state] = this.#popMany(2) as [Value, Value];
    if (!(object instanceof PickleDict) || !(state instanceof PickleDict))
      this.#fail(`sets attributes of ${kindOf(object)}`);
    this.#push(object);
  }
}
