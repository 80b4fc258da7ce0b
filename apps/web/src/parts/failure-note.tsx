import type { Failure } from '../api/failure.ts';

export function FailureNote({ failure, onRetry }: { failure: Failure; onRetry?: () => void }) {
  return (
    <div class="failure" role="alert">
      <p>
        <strong>{failure.title}.</strong> {failure.message}
      </p>
      {onRetry && (
        <button type="button" onClick={onRetry}>
          Try again
        </button>
      )}
    </div>
  );
}
