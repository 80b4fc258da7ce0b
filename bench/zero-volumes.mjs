// What one of N processes sends in a step, by the stage of ZeRO and the kind of collective, in numbers (of `bytes` bytes each). A ring, and direct
// messages as well, send (N - 1) / N of a buffer to gather it or to reduce and scatter it, and twice that to reduce it for all.

/**
 * @param counts numbers of parameters: {trained, all, gathered: {embedding, vision, layers, head}}
 * @param latents latent steps of a micro-batch
 * @returns {{allReduce: number, reduceScatter: number, gather: number}} bytes
 */
export function volumes(zero, micros, { trained, all, gathered }, { latents, processes, bytes = 4 }) {
  const share = (bytes * (processes - 1)) / processes;
  if (zero === 0) return { allReduce: 2 * share * trained, reduceScatter: 0, gather: 0 };
  // The updated parameters come back once a step; gradients go once a step, or with stage 2 with every micro-batch.
  if (zero < 3)
    return { allReduce: 0, reduceScatter: (zero === 2 ? micros : 1) * share * trained, gather: share * trained };
  const { layers, embedding, vision, head } = gathered;
  // The layers for each latent step, for the written text, and backwards. The embedding and the vision tower for the prompt, the embedding for the
  // text, and both backwards where they are trained. The head stays from the forward to the backward pass.
  const back = trained === all ? 1 : 0;
  const parameters = (latents + 2) * layers + (2 + back) * embedding + (1 + back) * vision + head;
  return { allReduce: 0, reduceScatter: micros * share * trained, gather: micros * share * parameters };
}
