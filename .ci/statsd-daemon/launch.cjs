// Starts the statsd that is installed under the first argument, with the configuration in the second one.
const path = require('path');
const util = require('util');

// statsd 0.9 calls util.log, which Node 23 removed.
util.log ??= console.log;

const [folder, configuration] = process.argv.slice(2);
process.argv = [process.argv[0], 'statsd', configuration];
require(path.resolve(folder, 'node_modules/statsd/stats.js'));
