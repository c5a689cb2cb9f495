// Leaks 50 buffers of 100,000 bytes in a function that is compiled by then, called by one that is
// still interpreted. V8 may give up compiled code under way: then one call has no name.
const fs = require('fs');
const kept = [];

function leakBuffers(count) {
  for (let i = 0; i < count; i++) kept.push(Buffer.alloc(100000));
}

function handleRequest() {
  leakBuffers(50);
}

function awaitLine() {
  const byte = Buffer.alloc(1);
  while (byte[0] !== 10) if (fs.readSync(0, byte) !== 1) process.exit(0);
}

for (let i = 0; i < 2000; i++) {
  leakBuffers(1);
  kept.length = 0;
}
fs.writeSync(1, 'ready\n');
awaitLine();
handleRequest();
fs.writeSync(1, 'done leaked_bytes=5000000 leaked_blocks=50\n');
awaitLine();
