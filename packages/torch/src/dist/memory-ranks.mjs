// One rank of the tests of memory that processes have in common: runs the named case and prints its result as a line of JSON.
import fs from 'node:fs';
import * as torch from '@ivtlr/torch';

const { name, dtypes = [] } = JSON.parse(process.argv[2]);
const { empty, initProcessGroup, scope, setStorageBytes, tensor, zeros } = torch;
const PAGE = 4096;
const isTrue = (tensor) => tensor.all().item() === 1;

function message(run) {
  try {
    run();
    return 'nothing was thrown';
  } catch (error) {
    return error.message;
  }
}

/** What a leak would add to. */
function holdings() {
  return {
    files: fs.readdirSync('/proc/self/fd').length,
    mappings: fs
      .readFileSync('/proc/self/maps', 'utf8')
      .split('\n')
      .filter((line) => line.includes('memfd:ivtlr')).length,
    tensors: torch.liveTensorCount(),
  };
}

function growth(rounds, body) {
  body();
  const before = holdings();
  for (let i = 0; i < rounds; i++) body();
  const after = holdings();
  return Object.fromEntries(Object.entries(before).map(([key, value]) => [key, after[key] - value]));
}

const cases = {
  /** Every process writes a stretch of its own parts, and reads all of all parts in place. */
  shared(group) {
    const { rank, size } = group;
    const results = {};
    for (const dtype of dtypes) {
      const elements = (3 * PAGE) / tensor([0], { dtype }).nbytes;
      const buffers = group.shareMemory([3 * PAGE, PAGE]);
      const [large, small] = buffers;
      const parts = [large.part(dtype, elements), small.part(dtype, elements / 3)];
      const fresh = parts.map((part) => isTrue(part.eq(0)));
      parts[0].copy_(torch.full([elements], rank + 1, { dtype }));
      parts[1].fill_(10 + rank);
      const whole = empty([size * elements], { dtype });
      const other = empty([(size * elements) / 3], { dtype });
      group.barrier();
      const before = torch.bytesReadFromPeers();
      large.attach(whole);
      small.attach(other);
      const counted = torch.bytesReadFromPeers() - before;
      const seen = () => Array.from({ length: size }, (_, r) => whole.narrow(0, r * elements, elements));
      const values = seen().map(
        (stretch, r) =>
          stretch
            .eq(r + 1)
            .all()
            .item() === 1,
      );
      const others = Array.from({ length: size }, (_, r) => other.narrow(0, (r * elements) / 3, elements / 3));
      const smallValues = others.map(
        (stretch, r) =>
          stretch
            .eq(10 + r)
            .all()
            .item() === 1,
      );
      group.barrier();
      parts[0].add_(20);
      group.barrier();
      // Without being read again.
      const changed = seen().map(
        (stretch, r) =>
          stretch
            .eq(r + 21)
            .all()
            .item() === 1,
      );
      group.barrier();
      for (const buffer of buffers) buffer[Symbol.dispose]();
      const kept =
        seen()
          [rank].eq(rank + 21)
          .all()
          .item() === 1;
      const gone = message(() => large.part(dtype, 1));
      setStorageBytes(whole, 0);
      setStorageBytes(whole, whole.nbytes);
      const own =
        isTrue(whole.fill_(7).eq(7)) &&
        parts[0]
          .eq(rank + 21)
          .all()
          .item() === 1;
      results[dtype] = { fresh, values, smallValues, changed, kept, gone, own, counted };
    }
    return results;
  },
  refusals(group) {
    const results = { crooked: group.shareMemory([PAGE + 8]), nothing: group.shareMemory([]) };
    const [buffer] = group.shareMemory([PAGE]);
    results.long = message(() => buffer.part('float32', PAGE / 4 + 1));
    results.whole = buffer.part('float32', PAGE / 4).shape;
    return results;
  },
  sharedGrowth(group) {
    const round = () =>
      scope(() => {
        const [buffer, other] = group.shareMemory([PAGE, 2 * PAGE]);
        const part = buffer.part('float32', 16);
        const whole = empty([(group.size * PAGE) / 4]);
        buffer.attach(whole);
        part.dispose();
        buffer[Symbol.dispose]();
        other[Symbol.dispose]();
      });
    return growth(100, round);
  },
  /** Pieces across the borders of the parts, gaps between them, and some that not everyone has. */
  pieces(group) {
    const { rank, size } = group;
    const part = Math.ceil(230_001 / size);
    const lengths = [70_001, 1, 0, 99_999, 50_000];
    const results = {};
    for (const dtype of dtypes) {
      const value = (r, piece, i) => ((i * 7 + piece) % 5) + r;
      let end = 0;
      const places = lengths.map((numel, piece) => {
        const offset = end;
        end += numel + 3 * piece;
        return { offset, numel };
      });
      // Piece 1 is nobody's, piece 3 only that of the last process.
      const has = (r, piece) => piece !== 1 && (piece !== 3 || r === size - 1);
      const made = (r, piece) =>
        tensor(
          Array.from({ length: lengths[piece] }, (_, i) => value(r, piece, i)),
          { dtype },
        );
      const wanted = zeros([size * part], { dtype: 'float64' });
      places.forEach(({ offset, numel }, piece) => {
        for (let r = 0; r < size; r++) if (has(r, piece)) wanted.narrow(0, offset, numel).add_(made(r, piece));
      });
      const own = wanted.narrow(0, rank * part, part);
      const pieces = places.map((place, piece) => ({ ...place, tensor: has(rank, piece) ? made(rank, piece) : null }));
      const out = torch.full([part], 3, { dtype });
      group.sumPiecesAsync(pieces, part, out, { purpose: 'test' }).wait();
      const set = isTrue(out.to('float64').eq(own));
      group.sumPiecesAsync(pieces, part, out, { add: true }).wait();
      const added = isTrue(out.to('float64').eq(own.mul(2)));
      const kept = pieces.every((piece, i) => !piece.tensor || isTrue(piece.tensor.eq(made(rank, i))));
      // All in place: two under way at once.
      const whole = [0, 1].map((turn) =>
        places.map((place, piece) => ({ ...place, tensor: made(rank + turn, piece) })),
      );
      for (const work of whole.map((list) => group.sumPiecesAsync(list, part, null))) work.wait();
      const inPlace = whole.every((list, turn) =>
        list.every(({ tensor: sum }, piece) => {
          const all = Array.from({ length: size }, (_, r) => made(r + turn, piece).to('float64'));
          return (
            sum
              .to('float64')
              .eq(all.reduce((a, b) => a.add(b)))
              .all()
              .item() === 1
          );
        }),
      );
      results[dtype] = { set, added, kept, inPlace };
    }
    group.barrier();
    return results;
  },
  mistakes(group) {
    const ones = torch.ones([8]);
    const out = zeros([4]);
    const sum = (pieces, into) => message(() => group.sumPiecesAsync(pieces, 4, into).wait());
    const results = {
      strided: sum([{ tensor: torch.ones([8, 2]).transpose(0, 1), offset: 0, numel: 16 }], out),
      length: sum([{ tensor: ones, offset: 0, numel: 7 }], out),
      out: sum([{ tensor: ones, offset: 0, numel: 8 }], zeros([5])),
      missing: sum([{ tensor: null, offset: 0, numel: 8 }], null),
    };
    group.sumPiecesAsync([{ tensor: ones, offset: 0, numel: 8 }], 8 / group.size, null).wait();
    return { ...results, after: ones.toNumbers() };
  },
  pieceGrowth(group) {
    const pieces = [{ tensor: torch.ones([1000]), offset: 0, numel: 1000 }];
    const out = zeros([1000]);
    return growth(1500, () => group.sumPiecesAsync(pieces, 1000, out, { add: true }).wait());
  },
};

const group = initProcessGroup({ timeout: 60 });
const result = group.readsEachOther ? await cases[name](group) : null;
process.stdout.write(`${JSON.stringify(result)}\n`);
group.barrier();
group.destroy();
