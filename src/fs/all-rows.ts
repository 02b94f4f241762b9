// All rows of the tree, subtree by subtree, in the order in which README files list them.
import { attachRows } from './attach-files.js';
import type { RowsFactory } from './control-fs.js';
import { processBaseRows, rootRows } from './status.js';

/** What the daemon mounts. A subtree is added by adding its factory here. */
export const rowsFactories: readonly RowsFactory[] = [rootRows, processBaseRows, attachRows];
