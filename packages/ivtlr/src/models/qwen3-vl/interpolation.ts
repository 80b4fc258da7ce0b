/** Where the patches of an image lie between the learned positions of the vision tower, a square that is stretched to the image, corner on corner. */

/**
 * Bilinear interpolation, in float32 as Hugging Face computes it.
 * @param grid patches: time, rows, columns
 * @param side learned positions along one side
 * @param merge patches along one side of an image token; the patches of a token follow each other
 * @returns per patch the four learned positions around it, and the share of each
 */
export function interpolation(
  [time, rows, columns]: readonly [number, number, number],
  side: number,
  merge: number,
): { corners: number[]; shares: Float32Array } {
  const down = axis(rows, side);
  const right = axis(columns, side);
  const corners: number[] = [];
  const shares = new Float32Array(time * rows * columns * 4);
  let at = 0;
  for (let t = 0; t < time; t++)
    for (let top = 0; top < rows; top += merge)
      for (let left = 0; left < columns; left += merge)
        for (let member = 0; member < merge * merge; member++) {
          const row = down[top + Math.floor(member / merge)]!;
          const column = right[left + (member % merge)]!;
          for (const y of row)
            for (const x of column) {
              corners.push(y.position * side + x.position);
              shares[at++] = y.share * x.share;
            }
        }
  return { corners, shares };
}

interface Corner {
  position: number;
  share: number;
}

/** The two learned positions around each of `size` patches along one axis. */
function axis(size: number, side: number): [Corner, Corner][] {
  const float = Math.fround;
  return Array.from({ length: size }, (_, index) => {
    const place = float(float(index * (side - 1)) / Math.max(1, size - 1));
    const before = Math.floor(place);
    const further = float(place - before);
    return [
      { position: before, share: float(1 - further) },
      { position: Math.min(before + 1, side - 1), share: float(1 - Math.abs(float(further - 1))) },
    ];
  });
}
