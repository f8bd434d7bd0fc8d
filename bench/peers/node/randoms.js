// The child process: draws, counts, answers, ends.
'use strict';

process.once('message', (cant) => {
  const counts = {};
  for (let i = 0; i < cant; i++) {
    const number = Math.floor(Math.random() * 1000) + 1;
    counts[number] = (counts[number] ?? 0) + 1;
  }
  process.send(counts, () => process.exit());
});
