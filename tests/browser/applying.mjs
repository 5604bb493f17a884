/** Takes logs, a JSON list of events a line, and says for each what `thread.js` makes of it. */

import { answerEntry, apply, textOf } from '../../web/page/thread.js';

let rest = '';

process.stdin.setEncoding('utf8');
process.stdin.on('data', (text) => {
  const lines = (rest + text).split('\n');
  rest = lines.pop() ?? '';
  for (const line of lines) {
    const answer = answerEntry({});
    for (const event of JSON.parse(line)) apply(answer, event);
    const { key, ...said } = answer;
    process.stdout.write(`${JSON.stringify({ ...said, text: textOf(answer) })}\n`);
  }
});
