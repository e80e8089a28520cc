// The text encoder `ngram` of stackflower/text/encoders/ngram.py. A test compares the two.
"use strict";

const ngram = (() => {
  // Letters and digits are those of Python's str.isalnum, white space is that of str.isspace.
  const SPACE = "\\t-\\r\\x1c-\\x20\\x85\\xa0\\u1680\\u2000-\\u200a\\u2028\\u2029\\u202f\\u205f\\u3000";
  const WORD = new RegExp(`[\\p{L}\\p{N}]+|[^\\p{L}\\p{N}_${SPACE}]`, "gu");
  const ALPHANUMERIC = /^[\p{L}\p{N}]+$/u;
  const UTF8 = new TextEncoder();

  const CRC_TABLE = Uint32Array.from({ length: 256 }, (_, byte) => {
    for (let bit = 0; bit < 8; bit++) byte = byte & 1 ? (byte >>> 1) ^ 0xedb88320 : byte >>> 1;
    return byte;
  });

  function crc32(bytes) {
    let code = 0xffffffff;
    for (const byte of bytes) code = (code >>> 8) ^ CRC_TABLE[(code ^ byte) & 255];
    return (code ^ 0xffffffff) >>> 0;
  }

  function adler32(bytes) {
    let a = 1;
    let b = 0;
    for (const byte of bytes) {
      a = (a + byte) % 65521;
      b = (b + a) % 65521;
    }
    return b * 65536 + a;
  }

  // Python's str.casefold. `folds` has the characters whose case folding differs from their lower case.
  function foldCase(text, folds) {
    let folded = "";
    for (const character of text) folded += folds[character] ?? character.toLowerCase();
    return folded;
  }

  function splitWords(caption, folds) {
    return foldCase(caption.normalize("NFKC"), folds).match(WORD) ?? [];
  }

  function* extractFeatures(allWords, options) {
    const isFunctionWord = new Set(options.functionWordList);
    for (const word of allWords) if (isFunctionWord.has(word)) yield [word, options.functionWords];
    const words = allWords.filter((word) => !isFunctionWord.has(word));
    for (const [position, word] of words.entries()) {
      yield [word, 1];
      const others = words.slice(position + 1, position + 1 + options.window);
      for (const [index, other] of others.entries()) yield [`${word} ${other}`, 1 / (index + 1)];
      if (!options.characters || !ALPHANUMERIC.test(word)) continue;
      const padded = [..."<", ...word, ">"];
      const grams = [];
      for (const size of [3, 4, 5]) {
        for (let start = 0; start + size <= padded.length; start++) grams.push(padded.slice(start, start + size).join(""));
      }
      for (const gram of grams) yield [gram, options.characters / Math.sqrt(grams.length)];
    }
  }

  // Return the embedding of a caption, a Float32Array of unit length; all zeros if it has no word.
  function encode(caption, options) {
    const sums = new Float32Array(options.dim);
    for (const [feature, weight] of extractFeatures(splitWords(caption, options.folds), options)) {
      const bytes = UTF8.encode(feature);
      sums[crc32(bytes) % options.dim] += adler32(bytes) % 251 < 125 ? weight : -weight;
    }
    let squares = 0;
    for (const value of sums) squares += value * value;
    return sums.map((value) => value / Math.max(Math.sqrt(squares), 1e-12));
  }

  return { splitWords, encode };
})();

if (typeof module !== "undefined") module.exports = ngram;
