import { cudaAvailable } from '@ivtlr/torch';
import { expect, test } from 'vitest';
import { ON_GPU, placed, TEST_DEVICE, tolerance } from './device.ts';
import { whyUnusable } from './device-setup.ts';
import { tinyModel } from './tiny-model.ts';

test('a device that cannot be used is refused with the reason, and never passed over', () => {
  expect(whyUnusable('cpu')).toBeNull();
  expect(whyUnusable('gpu')).toBe('IVTLR_TEST_DEVICE should be cpu or cuda, not gpu');
  if (cudaAvailable()) expect(whyUnusable('cuda')).toBeNull();
  else expect(whyUnusable('cuda')).toContain('this libtorch sees no GPU');
});

test('models of tests lie on the device, and bounds are as strict as ever on a CPU', () => {
  using model = tinyModel();
  expect(model.device.split(':')[0]).toBe(TEST_DEVICE.split(':')[0]);
  expect(placed(model)).toBe(model);
  expect(tolerance(1e-5)).toBe(ON_GPU ? 1e-3 : 1e-5);
  expect(tolerance(1e-2)).toBe(1e-2);
});
