/**
 * A linear classifier in closed form: ridge regression on a column for each class that is 1 for its samples and 0 for the others (the predicted
 * class is the column with the largest value), the penalty chosen by the leave-one-out error of the training samples. As RidgeClassifierCV of
 * scikit-learn on standardised features. Shapes: n training samples, D features, C classes, r = min(n, D).
 */
import { scope, type Tensor, tensor } from '@ivtlr/torch';
import * as ops from '@ivtlr/torch/ops';

export const PENALTIES: readonly number[] = [0.01, 0.1, 1, 10, 100, 1000, 10_000];

export interface RidgeFit {
  /** By training alone. */
  penalty: number;
  /** Class of each test sample, as an index into `classes`. */
  predicted: number[];
  /** Of the training samples, in sorted order. */
  classes: string[];
}

/**
 * Trains on some samples and predicts the classes of others.
 * @param train (n, D) features; n at least 2
 * @param labels one a training sample
 * @param test (m, D)
 */
export function ridgeClassify(
  train: readonly ArrayLike<number>[],
  labels: readonly string[],
  test: readonly ArrayLike<number>[],
): RidgeFit {
  const classes = [...new Set(labels)].sort();
  return scope(() => {
    const train_nD = matrix(train);
    const mean_D = train_nD.mean(0);
    const centred_nD = train_nD.sub(mean_D);
    const spread_D = centred_nD.pow(2).mean(0).sqrt();
    // A feature that never changes says nothing; dividing by 1 leaves it 0.
    const scale_D = spread_D.add(spread_D.eq(0).to('float64'));
    const [U_nr, S_r, V_rD] = ops.linalg_svd(centred_nD.div(scale_D), false);
    const target_nC = matrix(labels.map((label) => classes.map((name) => Number(name === label))));
    const share_C = target_nC.mean(0);
    const projected_rC = U_nr.transpose(0, 1).matmul(target_nC.sub(share_C));
    const errors = PENALTIES.map((penalty) => {
      const kept_r = shrink(S_r, penalty);
      const residual_nC = target_nC.sub(share_C).sub(U_nr.mul(kept_r).matmul(projected_rC));
      // A sample's own weight in its prediction, that of the mean included.
      const own_n = U_nr.pow(2)
        .matmul(kept_r)
        .add(1 / labels.length);
      return residual_nC.div(own_n.neg().add(1).unsqueeze(1)).pow(2).mean().item();
    });
    const penalty = PENALTIES[errors.indexOf(Math.min(...errors))]!;
    const weights_DC = V_rD.transpose(0, 1).matmul(projected_rC.mul(S_r.div(S_r.pow(2).add(penalty)).unsqueeze(1)));
    const predicted = matrix(test).sub(mean_D).div(scale_D).matmul(weights_DC).add(share_C).argmax(1);
    return { penalty, predicted: predicted.toNumbers(), classes };
  });
}

/** By how much each direction's part is kept, (r). */
function shrink(S_r: Tensor, penalty: number): Tensor {
  const square_r = S_r.pow(2);
  return square_r.div(square_r.add(penalty));
}

function matrix(rows: readonly ArrayLike<number>[]): Tensor {
  const columns = rows[0]!.length;
  const flat = new Float64Array(rows.length * columns);
  for (const [at, row] of rows.entries()) flat.set(row, at * columns);
  return tensor(flat, { shape: [rows.length, columns] });
}
