/** An error the user can act on: one sentence saying what was wrong, where, and what would be right. The CLI prints it and exits with code 2. */
export class UserError extends Error {
  override name = 'UserError';
}
