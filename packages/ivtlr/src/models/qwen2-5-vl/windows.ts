/** How a grid of image tokens is cut into windows. Shapes: N image tokens. */

/** Windows of the same number of tokens that follow one another. */
export interface WindowGroup {
  windows: number;
  /** Tokens of one window. */
  size: number;
}

/**
 * The windows start in the upper left corner; those of the last column and row are smaller where `side` does not divide the grid. Windows of one
 * size stand together, so that attention runs once a size: the whole ones first, then those cut at the right, below, and in the corner.
 * @param side tokens along one side of a window
 * @returns `order`: the token (row * columns + column) at each place
 */
export function windowOrder(rows: number, columns: number, side: number): { order: number[]; groups: WindowGroup[] } {
  const cuts = (length: number) => {
    const whole = Math.floor(length / side);
    const spans = Array.from({ length: whole }, (_, i) => i * side);
    return [
      { starts: spans, size: side },
      { starts: length % side > 0 ? [whole * side] : [], size: length % side },
    ];
  };
  const order: number[] = [];
  const groups: WindowGroup[] = [];
  for (const down of cuts(rows))
    for (const across of cuts(columns)) {
      const windows = down.starts.length * across.starts.length;
      if (windows > 0) groups.push({ windows, size: down.size * across.size });
      for (const top of down.starts)
        for (const left of across.starts)
          for (let row = top; row < top + down.size; row++)
            for (let column = left; column < left + across.size; column++) order.push(row * columns + column);
    }
  return { order, groups };
}
