// Loaded into every process of a test by NODE_OPTIONS: a worker of an answer pool kills itself when it is asked what the variable POISON says.
if (process.argv[1]?.endsWith('answer-worker.js')) {
  // Messages come from the first listener on, which must not be this one.
  process.on('newListener', function listen(name) {
    if (name !== 'message') return;
    process.off('newListener', listen);
    process.on('message', poisoned);
  });
}

function poisoned({ type, questions }) {
  if (type === 'ask' && questions.some(({ question }) => question.includes(process.env.POISON)))
    process.kill(process.pid, 'SIGKILL');
}
