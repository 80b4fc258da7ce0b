/** Reads `text/event-stream` (HTML standard, section 9.2): pieces of text in, the data of whole events out. */
export class EventReader {
  #line = '';
  #data: string[] = [];
  /** The last piece ended with a carriage return; a line feed that follows belongs to the same line end. */
  #afterReturn = false;

  /** @param text any piece of the stream, cut anywhere. @returns the data of the events that are complete now */
  push(text: string): string[] {
    const events: string[] = [];
    let rest = this.#afterReturn && text.startsWith('\n') ? text.slice(1) : text;
    if (text !== '') this.#afterReturn = text.endsWith('\r');
    for (;;) {
      const end = /\r\n|\n|\r/.exec(rest);
      if (!end) break;
      const event = this.#takeLine(this.#line + rest.slice(0, end.index));
      if (event !== null) events.push(event);
      this.#line = '';
      rest = rest.slice(end.index + end[0].length);
    }
    this.#line += rest;
    return events;
  }

  /** An empty line ends the event; lines other than `data` (comments, names, numbers) say nothing here. */
  #takeLine(line: string): string | null {
    if (line === '') {
      if (this.#data.length === 0) return null;
      const event = this.#data.join('\n');
      this.#data = [];
      return event;
    }
    if (line === 'data') this.#data.push('');
    else if (line.startsWith('data:')) this.#data.push(line.slice(line[5] === ' ' ? 6 : 5));
    return null;
  }
}
