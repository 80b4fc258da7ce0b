import { useEffect, useState } from 'preact/hooks';
import type { QuestionState } from '../state/use-question.ts';
import { FailureNote } from './failure-note.tsx';

interface Props {
  question: QuestionState;
  /** The model takes any number of pictures: none, one, or those that come one after the other. */
  several: boolean;
}

/** Takes pictures that are dropped, pasted, picked or photographed, or draws a puzzle. */
export function PictureInput({ question, several }: Props) {
  const [over, setOver] = useState(false);
  const { pictures, loading } = question;
  const take = (files: FileList | null | undefined) => {
    if (files?.length) question.takeFiles([...files], several);
  };
  useEffect(() => {
    // Anywhere on the page: nobody aims at a box with a picture in the hand.
    const leave = (event: DragEvent) => event.relatedTarget === null && setOver(false);
    const drag = (event: DragEvent) => {
      if (!hasFiles(event)) return;
      event.preventDefault();
      setOver(true);
    };
    const drop = (event: DragEvent) => {
      if (!hasFiles(event)) return;
      event.preventDefault();
      setOver(false);
      take(event.dataTransfer?.files);
    };
    const paste = (event: ClipboardEvent) => {
      if (event.defaultPrevented || !event.clipboardData?.files.length || isTextForField(event)) return;
      event.preventDefault();
      take(event.clipboardData.files);
    };
    addEventListener('dragover', drag);
    addEventListener('dragleave', leave);
    addEventListener('drop', drop);
    addEventListener('paste', paste);
    return () => {
      removeEventListener('dragover', drag);
      removeEventListener('dragleave', leave);
      removeEventListener('drop', drop);
      removeEventListener('paste', paste);
    };
  });
  return (
    <div class="picture-input">
      <div class={`picture-box ${over ? 'over' : ''}`} aria-busy={loading}>
        {pictures.map(({ url, name, element }, index) => (
          <div class="picture" key={index}>
            <img src={url} alt={`What is asked about: ${name}`} class={element.naturalWidth < 300 ? 'pixels' : ''} />
            {(several || pictures.length > 1) && (
              <button type="button" class="remove" onClick={() => question.removePicture(index)}>
                <span aria-hidden="true">✕</span>
                <span class="hidden">Remove picture {index + 1}</span>
              </button>
            )}
          </div>
        ))}
        {pictures.length === 0 && (
          <p>{loading ? 'Reading the picture …' : several ? 'Drop or paste pictures' : 'Drop or paste a picture'}</p>
        )}
      </div>
      <div class="buttons">
        <button type="button" onClick={question.drawPuzzle} disabled={loading}>
          Draw a puzzle
        </button>
        <FileButton label="Pick a picture" {...{ take, several }} />
        <FileButton label="Photograph" take={take} capture />
      </div>
      {question.failure && (
        <FailureNote failure={question.failure} {...(question.retry && { onRetry: question.retry })} />
      )}
    </div>
  );
}

/** Text that is dragged goes where the browser puts it. */
function hasFiles({ dataTransfer }: DragEvent): boolean {
  return dataTransfer?.types.includes('Files') ?? false;
}

/** Spreadsheets give a picture of the text beside it: into a field the text is meant. */
function isTextForField({ target, clipboardData }: ClipboardEvent): boolean {
  const fields = 'textarea, input[type="text"], input[type="number"], input[type="password"]';
  return target instanceof Element && target.matches(fields) && clipboardData!.types.includes('text/plain');
}

interface FileButtonProps {
  label: string;
  take: (files: FileList | null) => void;
  /** More than one at a time. */
  several?: boolean;
  capture?: boolean;
}

export function FileButton({ label, take, several = false, capture = false }: FileButtonProps) {
  return (
    <label class={`button ${capture ? 'camera' : ''}`}>
      {label}
      <input
        type="file"
        accept="image/*"
        class="hidden"
        multiple={several}
        {...(capture && { capture: 'environment' as const })}
        onChange={(event) => {
          take(event.currentTarget.files);
          // Picking the same file again is a change, too.
          event.currentTarget.value = '';
        }}
      />
    </label>
  );
}
