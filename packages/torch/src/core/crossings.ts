/** How often values of tensors cross between JavaScript or the CPU's memory and a device. On a GPU a read waits for all work before it. */
export interface Crossings {
  /** Values read by bytes(), and so by data(), toNumbers(), tolist() and item(). */
  reads: number;
  /** Tensors made on the CPU and sent to a device by toDevice() or to(). */
  uploads: number;
}

let counted: Crossings | null = null;

/**
 * Counts the crossings of a synchronous `body`. On the CPU nothing crosses; what is counted there is what would on a GPU, and besides every read of a
 * tensor that code on a GPU would keep on the CPU.
 */
export function countCrossings(body: () => void): Crossings {
  const outer = counted;
  const own = { reads: 0, uploads: 0 };
  counted = own;
  try {
    body();
  } finally {
    counted = outer;
    if (outer) {
      outer.reads += own.reads;
      outer.uploads += own.uploads;
    }
  }
  return own;
}

export function noteRead(): void {
  if (counted) counted.reads++;
}

export function noteUpload(): void {
  if (counted) counted.uploads++;
}

/** Whether anybody counts. */
export function countsCrossings(): boolean {
  return counted !== null;
}
