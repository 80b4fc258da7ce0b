import { isOf } from '../draw/cells.ts';
import type { StepDrawing } from '../draw/draw-step.ts';
import type { Answer } from '../state/answer.ts';
import { StepCanvas } from './step-canvas.tsx';
import { placesOf } from './step-viewer.tsx';

interface Props extends Omit<StepDrawing, 'element' | 'image'> {
  answer: Answer;
  /** CSS pixels that each picture may take. */
  largest: { width: number; height: number };
  /** Named steps are read out; others are decoration of what stands beside them. */
  name?: string;
  onPoint?: (token: number | null) => void;
}

/** All pictures of a question under the attention of one step. */
export function StepPictures({ answer, largest, name, ...drawing }: Props) {
  const { step } = drawing;
  const { pictures } = answer.asked.question;
  return (
    <>
      {pictures.map(({ element }, index) => {
        const image = answer.images[index] ?? null;
        const width = Math.min(
          largest.width,
          Math.round((largest.height * element.naturalWidth) / element.naturalHeight),
        );
        const which = pictures.length > 1 ? `, picture ${index + 1}` : '';
        const own = image && step && placesOf({ picked: step.picked.filter((token) => isOf(token, image)) }, [image]);
        const label = own === null ? `The picture${which}` : `${name}${which}: looked at ${own}`;
        return (
          <StepCanvas key={index} {...{ ...drawing, element, image, width }} {...(name !== undefined && { label })} />
        );
      })}
    </>
  );
}
