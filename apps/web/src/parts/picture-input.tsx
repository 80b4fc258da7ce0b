import { useEffect, useState } from 'preact/hooks';
import type { QuestionState } from '../state/use-question.ts';
import { FailureNote } from './failure-note.tsx';

/** Takes a picture that is dropped, pasted, picked or photographed, or draws a puzzle. */
export function PictureInput({ question }: { question: QuestionState }) {
  const [over, setOver] = useState(false);
  const { picture, takeFile, loading } = question;
  useEffect(() => {
    // Anywhere on the page: nobody aims at a box with a picture in the hand.
    const leave = (event: DragEvent) => event.relatedTarget === null && setOver(false);
    const drag = (event: DragEvent) => {
      event.preventDefault();
      setOver(true);
    };
    const drop = (event: DragEvent) => {
      event.preventDefault();
      setOver(false);
      takeFirst(event.dataTransfer?.files, takeFile);
    };
    const paste = (event: ClipboardEvent) => takeFirst(event.clipboardData?.files, takeFile);
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
  const small = picture && picture.element.naturalWidth < 300;
  return (
    <div class="picture-input">
      <div class={`picture-box ${over ? 'over' : ''}`} aria-busy={loading}>
        {picture ? (
          <img src={picture.url} alt={`What is asked about: ${picture.name}`} class={small ? 'pixels' : ''} />
        ) : (
          <p>{loading ? 'Reading the picture …' : 'Drop or paste a picture'}</p>
        )}
      </div>
      <div class="buttons">
        <button type="button" onClick={question.drawPuzzle} disabled={loading}>
          Draw a puzzle
        </button>
        <FileButton label="Pick a picture" takeFile={takeFile} />
        <FileButton label="Photograph" takeFile={takeFile} capture />
      </div>
      {question.failure && (
        <FailureNote failure={question.failure} {...(question.retry && { onRetry: question.retry })} />
      )}
    </div>
  );
}

interface FileButtonProps {
  label: string;
  takeFile: (file: File) => void;
  capture?: boolean;
}

function FileButton({ label, takeFile, capture = false }: FileButtonProps) {
  return (
    <label class={`button ${capture ? 'camera' : ''}`}>
      {label}
      <input
        type="file"
        accept="image/*"
        class="hidden"
        {...(capture && { capture: 'environment' as const })}
        onChange={(event) => {
          takeFirst(event.currentTarget.files, takeFile);
          // Picking the same file again is a change, too.
          event.currentTarget.value = '';
        }}
      />
    </label>
  );
}

function takeFirst(files: FileList | null | undefined, takeFile: (file: File) => void): void {
  const file = files?.[0];
  if (file) takeFile(file);
}
