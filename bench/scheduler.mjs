// Who waited for whom: the kernel's own record of which thread had which core, read from tracefs. Linux, as root.
import fs from 'node:fs';

const ROOT = '/sys/kernel/tracing';
const OWN = `${ROOT}/instances/ivtlr`;
const EVENTS = ['sched_switch', 'sched_waking'];
const BUFFER_KIB = 32768;

/** Whether the record can be had here; why not in a sentence, else null. */
export function cannotFollow() {
  try {
    make();
    fs.rmdirSync(OWN);
    return null;
  } catch (error) {
    return `the scheduler's record needs root and tracefs at ${ROOT} (mount -t tracefs nodev ${ROOT}): ${error.message}`;
  }
}

/** Not with `recursive`: where tracefs is not mounted Node would then try for ever. */
function make() {
  if (!fs.existsSync(OWN)) fs.mkdirSync(OWN);
}

/** Threads of a process. */
export function threadsOf(pid) {
  return fs.readdirSync(`/proc/${pid}/task`).map(Number);
}

/** The processes that a process has started and that live. */
export function childrenOf(pid) {
  return threadsOf(pid).flatMap((thread) =>
    fs.readFileSync(`/proc/${pid}/task/${thread}/children`, 'utf8').trim().split(' ').filter(Boolean).map(Number),
  );
}

/** Begins to record; the function it returns ends that and gives the record's text. A program that ends before leaves nothing on. */
export function follow() {
  make();
  const remove = () => fs.rmdirSync(OWN); // with it the events are off
  process.on('exit', remove);
  const set = (name, value) => fs.writeFileSync(`${OWN}/${name}`, value);
  set('buffer_size_kb', String(BUFFER_KIB));
  set('trace_clock', 'mono'); // one clock for all cores
  for (const event of EVENTS) set(`events/sched/${event}/enable`, '1');
  set('tracing_on', '1');
  return () => {
    set('tracing_on', '0');
    const lost = fs
      .readdirSync(`${OWN}/per_cpu`)
      .some((cpu) => !/^overrun: 0$/m.test(fs.readFileSync(`${OWN}/per_cpu/${cpu}/stats`, 'utf8')));
    const text = fs.readFileSync(`${OWN}/trace`, 'utf8');
    process.off('exit', remove);
    remove();
    if (lost) throw new Error('the record of the scheduler has overrun its memory');
    return text;
  };
}

const SWITCH =
  /\[(\d+)\].* (\d+\.\d+): sched_switch: prev_comm=.* prev_pid=(\d+) prev_prio=\d+ prev_state=(\S+) ==> next_comm=.* next_pid=(\d+)/;
const WAKING = / (\d+\.\d+): sched_waking: comm=.* pid=(\d+) prio=\d+ target_cpu=(\d+)/;
const IDLE = 0;

/**
 * Seconds in which a thread of `working` could have run and had no core while threads of `others` had one: what the others took from it at most,
 * since a thread that only spins counts like one that works. Also how long the others ran at all.
 * @param working, others sets of thread ids
 */
export function waits(text, working, others) {
  /** Thread by core. */
  const running = new Map();
  const waiting = new Set();
  let last = null;
  let waited = 0;
  let ran = 0;
  const passTo = (now) => {
    const having = [...running.values()].filter((thread) => others.has(thread)).length;
    ran += (now - (last ?? now)) * having;
    waited += (now - (last ?? now)) * Math.min(waiting.size, having);
    last = now;
  };
  const leave = (thread) => {
    for (const [core, each] of running) if (each === thread) running.set(core, IDLE);
    waiting.delete(thread);
  };
  for (const line of text.split('\n')) {
    const change = SWITCH.exec(line);
    const waking = change ? null : WAKING.exec(line);
    if (change) {
      const [core, now, previous, , next] = change.slice(1).map(Number);
      passTo(now);
      leave(previous);
      leave(next);
      if (working.has(previous) && change[4].startsWith('R')) waiting.add(previous);
      running.set(core, next);
    } else if (waking) {
      const [now, thread, target] = waking.slice(1).map(Number);
      passTo(now);
      const cores = [...running];
      if (cores.some(([, each]) => each === thread)) continue;
      // A core that is idle takes the thread; the kernel leaves some of these switches out.
      const idle = running.get(target) === IDLE ? target : cores.find(([, each]) => each === IDLE)?.[0];
      if (idle !== undefined) running.set(idle, thread);
      else if (working.has(thread)) waiting.add(thread);
    }
  }
  return { waited, ran };
}
