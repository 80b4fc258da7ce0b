/** Thrown for broken or unusual image files; `decodeImage` turns it into a sentence that names the image. */
export class ImageFormatError extends Error {}
