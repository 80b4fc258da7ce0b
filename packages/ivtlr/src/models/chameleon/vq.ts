/**
 * Chameleon's image tokenizer: the encoder of a VQ-VAE and its nearest code vectors.
 * Source: Hugging Face ChameleonVQVAE; property names are the checkpoint's. Every operation is the one done there, in the same order, so that
 * codes agree even where two are almost equally near; it is never trained.
 * Shapes: I images, C channels, Y rows, X columns, N image tokens, K codes, Q channels of a code vector.
 */
import { Conv2d, Embedding, type FactoryOptions, GroupNorm, Module, noGrad, scope, type Tensor } from '@ivtlr/torch';
import * as ops from '@ivtlr/torch/ops';
import { numbersIn, runUnits, type VisionUnit } from '../common/vision-units.ts';
import { NORM_GROUPS, type VqConfig } from './config.ts';

const groupNorm = (channels: number, options: FactoryOptions) =>
  new GroupNorm(NORM_GROUPS, channels, { eps: 1e-6, ...options });

/** Elements whose gate is computed at a time on the CPU: it stays in the processor's cache, and no second tensor of x's size has to be made. */
const SWISH_PIECE = 2 ** 19;

/** x * sigmoid(x), in place. (ATen's silu rounds once where this rounds twice.) */
function swish_(x: Tensor): Tensor {
  const { numel } = x;
  // A GPU is faster with everything at once.
  const size = x.device === 'cpu' ? SWISH_PIECE : numel;
  scope(() => {
    const flat = x.view([numel]);
    for (let start = 0; start < numel; start += size)
      scope(() => {
        const piece = flat.narrow(0, start, Math.min(size, numel - start));
        piece.mul_(ops.sigmoid(piece));
      });
  });
  return x;
}

class ResidualBlock extends Module {
  readonly norm1: GroupNorm;
  readonly conv1: Conv2d;
  readonly norm2: GroupNorm;
  readonly conv2: Conv2d;
  readonly nin_shortcut: Conv2d | undefined;

  constructor(inputs: number, outputs: number, options: FactoryOptions) {
    super();
    this.norm1 = groupNorm(inputs, options);
    this.conv1 = new Conv2d(inputs, outputs, 3, { padding: 1, ...options });
    this.norm2 = groupNorm(outputs, options);
    this.conv2 = new Conv2d(outputs, outputs, 3, { padding: 1, ...options });
    if (inputs !== outputs) this.nin_shortcut = new Conv2d(inputs, outputs, 1, options);
  }

  forward(x: Tensor): Tensor {
    const half = scope(() => this.conv1.forward(swish_(this.norm1.forward(x))));
    const whole = scope(() => this.conv2.forward(swish_(this.norm2.forward(half))));
    half.dispose();
    return whole.add_(this.nin_shortcut ? this.nin_shortcut.forward(x) : x);
  }
}

class AttentionBlock extends Module {
  readonly norm: GroupNorm;
  readonly q: Conv2d;
  readonly k: Conv2d;
  readonly v: Conv2d;
  readonly proj_out: Conv2d;

  constructor(channels: number, options: FactoryOptions) {
    super();
    this.norm = groupNorm(channels, options);
    this.q = new Conv2d(channels, channels, 1, options);
    this.k = new Conv2d(channels, channels, 1, options);
    this.v = new Conv2d(channels, channels, 1, options);
    this.proj_out = new Conv2d(channels, channels, 1, options);
  }

  /** Every place attends to every place. */
  forward(x_ICYX: Tensor): Tensor {
    const [I, C, Y, X] = x_ICYX.shape as [number, number, number, number];
    const normed = this.norm.forward(x_ICYX);
    const places = (conv: Conv2d) => conv.forward(normed).reshape([I, C, Y * X]);
    const weights = ops
      .bmm(places(this.q).permute([0, 2, 1]), places(this.k))
      .mul(C ** -0.5)
      .softmax(2);
    const out = ops.bmm(places(this.v), weights.permute([0, 2, 1]));
    return x_ICYX.add(this.proj_out.forward(out.reshape([I, C, Y, X])));
  }
}

class Downsample extends Module {
  readonly conv: Conv2d;

  constructor(channels: number, options: FactoryOptions) {
    super();
    this.conv = new Conv2d(channels, channels, 3, { stride: 2, ...options });
  }

  /** Pads on the right and at the bottom only. */
  forward(x: Tensor): Tensor {
    return this.conv.forward(ops.constant_pad_nd(x, [0, 1, 0, 1], 0));
  }
}

class Level extends Module {
  readonly block: ResidualBlock[] = [];
  readonly attn: AttentionBlock[] = [];
  readonly downsample: Downsample | undefined;

  constructor(config: VqConfig, level: number, options: FactoryOptions) {
    super();
    const { baseChannels, multipliers, residualBlocks, resolution, attention, attentionResolutions } = config;
    const outputs = baseChannels * multipliers[level]!;
    const attends = attention && attentionResolutions.includes(Math.floor(resolution / 2 ** level));
    let inputs = baseChannels * (multipliers[level - 1] ?? 1);
    for (let i = 0; i < residualBlocks; i++) {
      this.block.push(new ResidualBlock(inputs, outputs, options));
      if (attends) this.attn.push(new AttentionBlock(outputs, options));
      inputs = outputs;
    }
    if (level < multipliers.length - 1) this.downsample = new Downsample(outputs, options);
  }

  steps(): Step[] {
    const blocks = this.block.flatMap((block, i): Step[] => (this.attn[i] ? [block, this.attn[i]] : [block]));
    return this.downsample ? [...blocks, this.downsample] : blocks;
  }
}

type Step = ResidualBlock | AttentionBlock | Downsample;

class Middle extends Module {
  readonly block_1: ResidualBlock;
  readonly attn_1: AttentionBlock | undefined;
  readonly block_2: ResidualBlock;

  constructor(channels: number, attention: boolean, options: FactoryOptions) {
    super();
    this.block_1 = new ResidualBlock(channels, channels, options);
    if (attention) this.attn_1 = new AttentionBlock(channels, options);
    this.block_2 = new ResidualBlock(channels, channels, options);
  }

  steps(): Step[] {
    return this.attn_1 ? [this.block_1, this.attn_1, this.block_2] : [this.block_1, this.block_2];
  }
}

class Encoder extends Module {
  readonly conv_in: Conv2d;
  readonly down: Level[];
  readonly mid: Middle;
  readonly norm_out: GroupNorm;
  readonly conv_out: Conv2d;

  constructor(config: VqConfig, options: FactoryOptions) {
    super();
    const { baseChannels, multipliers, latentChannels, attention } = config;
    const last = baseChannels * multipliers.at(-1)!;
    this.conv_in = new Conv2d(3, baseChannels, 3, { padding: 1, ...options });
    this.down = multipliers.map((_, level) => new Level(config, level, options));
    this.mid = new Middle(last, attention, options);
    this.norm_out = groupNorm(last, options);
    this.conv_out = new Conv2d(last, latentChannels, 3, { padding: 1, ...options });
  }

  /** For pixels (I, 3, R, R) float32. At 512x512 a level holds 134 MB, so each unit frees what the one before it left. */
  units(pixels: Tensor): VisionUnit[] {
    const { dtype, device } = this.conv_in.weight;
    const [images, , rows, columns] = pixels.shape as [number, number, number, number];
    let places = rows * columns;
    const units: VisionUnit[] = [
      {
        work: images * places * numbersIn(this.conv_in),
        run: () => [this.conv_in.forward(pixels.to({ dtype, device }))],
      },
    ];
    for (const step of [...this.down.flatMap((level) => level.steps()), ...this.mid.steps()]) {
      if (step instanceof Downsample) places /= 4;
      // Every place attends to every place: two products of as many channels as the norm has.
      const attended = step instanceof AttentionBlock ? 2 * places * step.norm.weight!.numel : 0;
      const work = images * places * (numbersIn(step) + attended);
      units.push({ work, run: ([x]) => [step.forward(x!)] });
    }
    const last = images * places * numbersIn(this.conv_out);
    return [...units, { work: last, run: ([x]) => [this.conv_out.forward(swish_(this.norm_out.forward(x!)))] }];
  }
}

class Quantizer extends Module {
  /** (K, Q) */
  readonly embedding: Embedding;

  constructor({ codes, embedDim }: VqConfig, options: FactoryOptions) {
    super();
    this.embedding = new Embedding(codes, embedDim, options);
  }

  /** (I, Q, Y, X) -> the nearest code of each place, row by row: (I, Y*X) int64; the smaller of equally near ones. */
  forward(x_IQYX: Tensor): Tensor {
    const [I, Q, Y, X] = x_IQYX.shape as [number, number, number, number];
    const vectors = x_IQYX
      .permute([0, 2, 3, 1])
      .contiguous()
      .view([I * Y * X, Q]);
    const codes = this.embedding.weight;
    const distances = vectors
      .pow(2)
      .sum(1, true)
      .add(codes.pow(2).sum(1))
      .sub(ops.einsum('bd,dn->bn', [vectors, codes.transpose(0, 1)]).mul(2));
    return ops.argmin(distances, 1).view([I, Y * X]);
  }
}

export class VqEncoder extends Module {
  readonly encoder: Encoder;
  readonly quantize: Quantizer;
  readonly quant_conv: Conv2d;
  /** Belongs to the image decoder, which Hugging Face leaves out; kept so that a folder that is saved again is whole. */
  readonly post_quant_conv: Conv2d;

  constructor(config: VqConfig, options: FactoryOptions) {
    super();
    this.encoder = new Encoder(config, options);
    this.quantize = new Quantizer(config, options);
    this.quant_conv = new Conv2d(config.latentChannels, config.embedDim, 1, options);
    this.post_quant_conv = new Conv2d(config.embedDim, config.latentChannels, 1, options);
  }

  /** pixels (I, 3, R, R) float32 -> codes (I, N) int64, row by row. */
  encode(pixels: Tensor): Tensor {
    return noGrad(() => runUnits(this.units(pixels)));
  }

  /** The same in units. */
  units(pixels: Tensor): VisionUnit[] {
    const quantize: VisionUnit = { work: 0, run: ([x]) => [this.quantize.forward(this.quant_conv.forward(x!))] };
    return [...this.encoder.units(pixels), quantize];
  }
}
