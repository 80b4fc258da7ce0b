// Says which package brings a library that libtorch needs and the system does not find.
import fs from 'node:fs';
import path from 'node:path';

/** NVIDIA's packages on the Python package index, by the libraries in them. Those in `SUFFIXED` carry the CUDA version in their name also from CUDA 13 on. */
const PACKAGES = {
  libcublas: 'nvidia-cublas',
  libcublasLt: 'nvidia-cublas',
  libcudart: 'nvidia-cuda-runtime',
  libcudnn: 'nvidia-cudnn',
  libcufft: 'nvidia-cufft',
  libcufile: 'nvidia-cufile',
  libcupti: 'nvidia-cuda-cupti',
  libcurand: 'nvidia-curand',
  libcusolver: 'nvidia-cusolver',
  libcusparse: 'nvidia-cusparse',
  libcusparseLt: 'nvidia-cusparselt',
  libnccl: 'nvidia-nccl',
  libnvJitLink: 'nvidia-nvjitlink',
  libnvrtc: 'nvidia-cuda-nvrtc',
  libnvshmem_host: 'nvidia-nvshmem',
};
const SUFFIXED = ['nvidia-cudnn', 'nvidia-cusparselt', 'nvidia-nccl', 'nvidia-nvshmem'];

/**
 * @param reason what the system says of a library it cannot load
 * @param folder of the libtorch that needs it
 * @returns the reason; where a library is missing, also what brings it
 */
export function explainLoading(reason, folder) {
  const missing = reason.match(/(?:^|[\s:])((lib[\w+-]+)\.so[.\d]*): cannot open shared object file/);
  if (!missing) return reason;
  const [, file, library] = missing;
  const lacks = `the library ${file}, which libtorch in ${folder} needs, is not found`;
  if (library === 'libcuda') return `${lacks}: it comes with NVIDIA's driver`;
  if (library === 'libgomp') return `${lacks}: it comes with the system package libgomp1 (libgomp elsewhere)`;
  if (library === 'libtorch_cuda' || library === 'libtorch_cpu' || library === 'libc10')
    return `${lacks}: that libtorch is not whole`;
  const name = PACKAGES[library] ?? PACKAGES[library.replace(/_.*$/, '')];
  if (!name) return lacks;
  const cuda = cudaMajor(folder);
  const suffix = cuda !== null && (cuda < 13 || SUFFIXED.includes(name)) ? `-cu${cuda}` : '';
  return `${lacks}: it comes with \`pip install ${name}${suffix}\`, beside the torch package`;
}

/** The CUDA version a Python torch was built for; null where it does not say. */
function cudaMajor(folder) {
  const file = path.join(folder, 'version.py');
  const text = fs.existsSync(file) ? fs.readFileSync(file, 'utf8') : '';
  const major = text.match(/^cuda\b.*= '(\d+)\./m)?.[1];
  return major === undefined ? null : Number(major);
}
