// One rank of the tests: runs the named case and prints its result as a line of JSON.
import * as torch from '@ivtlr/torch';

const { name, ...given } = JSON.parse(process.argv[2]);
const { initProcessGroup, tensor, scope } = torch;
const print = (value) => process.stdout.write(`${JSON.stringify(value)}\n`);
const pause = (seconds) => Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, seconds * 1000);

/** The message of what `run` throws, with the error's class before it. */
function failure(run) {
  const started = performance.now();
  try {
    run();
    return { message: 'nothing was thrown' };
  } catch (error) {
    return { message: `${error.name}: ${error.message}`, seconds: (performance.now() - started) / 1000 };
  }
}

const cases = {
  values(group) {
    const { rank, size } = group;
    const results = {};
    for (const dtype of given.dtypes) {
      const of = (values) => tensor(values, { dtype });
      const mine = of([rank + 1, 2 * rank, 3]);
      const all = of(Array.from({ length: size * 2 }, (_, i) => (rank + 1) * (i % 5)));
      const out = torch.zeros([size * 3], { dtype });
      const part = torch.zeros([2], { dtype });
      const inPlace = mine.clone();
      results[dtype] = {
        sum: group.allReduce(mine).toNumbers(),
        max: group.allReduce(mine, { op: 'max' }).toNumbers(),
        min: group.allReduce(mine, { op: 'min' }).toNumbers(),
        product: group.allReduce(mine, { op: 'product' }).toNumbers(),
        same: group.allReduceInPlace(inPlace) === inPlace && inPlace.toNumbers(),
        gathered: group.allGather(mine).toNumbers(),
        gatheredInto: group.allGatherInto(out, mine) === out && out.toNumbers(),
        scattered: group.reduceScatter(all).toNumbers(),
        scatteredInto: group.reduceScatterInto(part, all) === part && part.toNumbers(),
        sent: group.broadcast(mine, size - 1).toNumbers(),
        exchanged: group.allToAll(of(Array.from({ length: size }, (_, i) => 10 * rank + i))).toNumbers(),
        kept: mine.toNumbers(),
      };
      if (/float/.test(dtype)) results[dtype].average = group.allReduce(mine, { op: 'avg' }).toNumbers();
    }
    group.barrier();
    return results;
  },
  /** Large enough that processes of one machine read each other's memory. */
  large(group) {
    const { rank, size } = group;
    const results = {};
    for (const dtype of given.dtypes) {
      const counted = (length, value) =>
        tensor(
          Array.from({ length }, (_, i) => value(i % 50)),
          { dtype },
        );
      const of = (length, offset) => counted(length, (i) => i + offset);
      const n = 240_000;
      const check = (found, wanted) => found.eq(wanted).to('float32').mean().item() === 1;
      const all = counted(n * size, (i) => i * size + (size * (size - 1)) / 2);
      const kept = of(n * size, rank);
      const out = torch.zeros([n * size], { dtype });
      const part = torch.zeros([n], { dtype });
      const mine = out.narrow(0, rank * n, n).copy_(of(n, rank));
      const gathered = group.allGatherInto(out, mine);
      const wantedGather = torch.cat(
        Array.from({ length: size }, (_, r) => of(n, r)),
        0,
      );
      results[dtype] = {
        gathered: check(gathered, wantedGather),
        scattered: check(group.reduceScatterInto(part, kept), all.narrow(0, rank * n, n)),
        fresh: check(group.reduceScatter(kept.view([-1, 8])).flatten(), all.narrow(0, rank * n, n)),
        kept: check(kept, of(n * size, rank)),
        reduced: check(group.allReduceInPlace(kept), all),
      };
    }
    group.barrier();
    return { results, read: torch.bytesReadFromPeers() };
  },
  uneven(group) {
    const { rank, size } = group;
    const rows = torch.full([rank * 2, 3], rank + 1);
    const send = Array.from({ length: size }, (_, to) => to + 1);
    const exchanged = group.allToAll(torch.full([send.reduce((a, b) => a + b)], rank), {
      send,
      expect: new Array(size).fill(rank + 1),
    });
    return {
      gathered: group.allGatherUneven(rows).map((part) => [part.shape, part.toNumbers()]),
      exchanged: exchanged.toNumbers(),
      empty: group.allReduce(torch.zeros([0])).shape,
      scalar: group.allReduce(tensor(rank + 1)).item(),
    };
  },
  refusals(group) {
    const waits = [
      () => group.allReduce(tensor([1], { dtype: 'int16' }), { purpose: 'counts' }),
      () => group.allGather(tensor([1], { dtype: 'bool' })),
      () => group.allReduce(tensor([1], { dtype: 'int64' }), { op: 'avg' }),
      () => group.reduceScatter(torch.zeros([group.size + 1])),
    ].map(failure);
    group.barrier();
    return waits;
  },
  subgroups(group) {
    const { rank } = group;
    const even = group.subgroup([0, 2]);
    const odd = group.subgroup([1, 3]);
    const mine = even ?? odd;
    const sum = mine.allReduce(tensor([rank])).item();
    const sent = mine.broadcast(tensor([rank]), 1).item();
    const result = { none: (even === null) !== (odd === null), ranks: mine.ranks, rank: mine.rank, sum, sent };
    mine.destroy();
    group.barrier();
    return result;
  },
  store(group) {
    const { store, rank, size } = group;
    store.set(`key ${rank}`, `value ${rank}`);
    store.wait(Array.from({ length: size }, (_, i) => `key ${i}`));
    const bytes = Uint8Array.of(0, 255, rank);
    store.set(`bytes ${rank}`, bytes);
    store.add('count', rank + 1);
    store.add('arrived', 1);
    while (store.add('arrived', 0) < size) pause(0.01);
    const result = {
      text: store.getText(`key ${(rank + 1) % size}`),
      bytes: [...store.get(`bytes ${rank}`)],
      count: store.add('count', 0),
      check: [store.check(['key 0', 'key 1']), store.check(['key 0', 'nothing'])],
      late: failure(() => store.get('nothing', { timeout: 0.5 })),
    };
    group.barrier(); // all have read
    const removed = [store.delete(`key ${rank}`), store.delete(`key ${rank}`)];
    group.barrier(); // rank 0 serves the store until here
    return { ...result, removed };
  },
  asynchronous(group) {
    const works = Array.from({ length: 20 }, (_, i) => group.allReduceAsync(torch.full([1000], group.rank + i)));
    return works.map((work) => work.wait().toNumbers()[999]).concat(works[0].wait().toNumbers()[0]);
  },
  growth(group) {
    const value = torch.ones([64]);
    const part = torch.zeros([64]);
    const all = torch.zeros([64 * group.size]);
    const round = () =>
      scope(() => {
        group.allReduceInPlace(value, { op: 'avg' });
        group.allGather(value);
        group.reduceScatterInto(part, torch.cat(Array(group.size).fill(value), 0), { op: 'avg' });
        group.allGatherInto(all, value);
      });
    for (let i = 0; i < 500; i++) round();
    const before = [torch.liveTensorCount(), process.memoryUsage().rss];
    for (let i = 0; i < 2500; i++) round();
    return { handles: torch.liveTensorCount() - before[0], bytes: process.memoryUsage().rss - before[1] };
  },
  again(first) {
    const sums = [];
    let group = first;
    for (let i = 0; i < 5; i++) {
      sums.push(group.allReduce(tensor([group.rank + i])).item());
      if (group.rank === i % group.size) pause(0.2);
      group.destroy();
      group = initProcessGroup({ timeout: 20 });
    }
    group.barrier();
    group.destroy();
    return sums;
  },
  /** Endless collectives: somebody is killed or stopped. */
  lost(group) {
    const { collective = 'allReduce', elements = 1000 } = given;
    const round = () => scope(() => group[collective](torch.ones([elements]), { purpose: 'gradients of layer 3' }));
    round();
    group.barrier();
    process.stdout.write('running\n');
    for (;;) {
      const result = failure(round);
      if (result.seconds === undefined) continue;
      return { ...result, cpu: process.cpuUsage() };
    }
  },
  aborts(group) {
    group.barrier();
    if (group.rank === 1) {
      pause(0.3);
      group.abort('disk full');
      return 'aborted';
    }
    return failure(() => group.barrier({ purpose: 'end of step 7' }));
  },
  leaves(group) {
    group.barrier();
    if (group.rank === 0) return 'left';
    pause(0.5);
    return failure(() => group.barrier());
  },
  idle(group) {
    group.barrier();
    const before = process.cpuUsage();
    if (group.rank === 0) pause(2);
    group.barrier();
    const { user, system } = process.cpuUsage(before);
    return (user + system) / 1e6;
  },
};

if (name === 'reads') {
  // Whether this system lets processes of one user read each other's memory: a child tries.
  const { spawnSync } = await import('node:child_process');
  const { native } = await import('../../dist/core/native.js');
  if (given.pid === undefined) {
    const [, , pid, address, number] = native.describeMemory('alone').split(' ');
    const payload = JSON.stringify({ name, pid, address, number });
    process.stdout.write(spawnSync(process.execPath, [process.argv[1], payload], { encoding: 'utf8' }).stdout);
  } else print(native.canReadMemory(Number(given.pid), given.address, given.number));
} else if (name === 'join') print(failure(() => initProcessGroup(given.options)));
else {
  const group = initProcessGroup({ timeout: given.timeout ?? 80 });
  print(await cases[name](group));
  group.destroy();
}
