// docs/bpftime_vm.3 from native/vm/include/bpftime/vm.h: the header is the reference, the page is
// the same text for `man`.

/** A part of the header: what is declared, and the comment in front of it. */
interface Item {
  readonly comment: string;
  readonly declaration: string;
}

const WIDTH = 78;

/** Text as mdoc takes it: one sentence a line, lines not too long, nothing taken for a macro. */
function prose(text: string): string {
  const lines: string[] = [];
  for (const sentence of text
    .replace(/\s+/g, ' ')
    .trim()
    .split(/(?<=[.!?]) (?=[A-Z`-])/)) {
    let line = '';
    for (const word of sentence.replace(/\\/g, '\\e').replace(/\(\)/g, '\\&()').split(' ')) {
      if (line !== '' && line.length + word.length >= WIDTH) {
        lines.push(line);
        line = '';
      }
      line += (line === '' ? '' : ' ') + word;
    }
    lines.push(line);
  }
  return lines.map((line) => line.replace(/^(?=[.'])/, '\\&')).join('\n');
}

const literal = (text: string, offset: string) =>
  `.Bd -literal${offset}\n${text.replace(/\\/g, '\\e').replace(/^(?=[.'])/gm, '\\&')}\n.Ed`;

/** What a comment says, without its frame. */
const said = (comment: string) =>
  comment
    .replace(/^\/\* ?/, '')
    .replace(/ ?\*\/$/, '')
    .replace(/^ \* ?/gm, '');

/** Paragraphs; those that are indented are code. */
const paragraphs = (blocks: readonly string[]) =>
  blocks
    .map((block) =>
      block.startsWith('  ')
        ? literal(block.replace(/^ {2}/gm, ''), ' -offset indent')
        : `.Pp\n${prose(block)}`,
    )
    .join('\n');

/** Everything between two headings of the header. */
function itemsOf(section: string): Item[] {
  const items: Item[] = [];
  let comment = '';
  for (const block of section.split('\n\n')) {
    const found = /^(\/\*[\s\S]*?\*\/)\n?([\s\S]*)$/.exec(block.trim());
    comment = found ? said(found[1]!) : comment;
    const declaration = (found ? found[2]! : block).replaceAll('BPFTIME_VM_API ', '').trim();
    if (declaration !== '' && !/^#(endif|ifdef|if)\b/.test(declaration)) {
      items.push({ comment: found ? comment : '', declaration });
    }
  }
  return items;
}

/** The page for a header's text. */
export function vmManPage(header: string): string {
  const top = said(/^\/\* bpftime\/vm\.h[\s\S]*?\*\//m.exec(header)![0]);
  const [title = '', ...rest] = top.split('\n\n');
  const body = header.slice(header.indexOf('/* Limits.'), header.indexOf('#ifdef __cplusplus\n}'));
  const sections = `/* ---- limits ---- */\n\n${body}`.split(/\/\* ---- (.*) ---- \*\/\n/).slice(1);
  let text = '';
  for (let i = 0; i < sections.length; i += 2) {
    text += `.Ss ${sections[i]![0]!.toUpperCase()}${sections[i]!.slice(1)}\n`;
    const items = itemsOf(sections[i + 1]!);
    text += items
      .map(({ comment, declaration }) =>
        [literal(declaration, ''), comment === '' ? '' : prose(comment)].filter(Boolean).join('\n'),
      )
      .join('\n');
    text += '\n';
  }
  const [first = ''] = title.split(/(?<=\.) /).slice(1);
  return `.\\" SPDX-License-Identifier: MIT
.\\" Generated from native/vm/include/bpftime/vm.h by \`npm run gen\`.
.Dd November 26, 2026
.Dt BPFTIME_VM 3
.Os
.Sh NAME
.Nm bpftime_vm
.Nd an eBPF virtual machine to embed
.Sh SYNOPSIS
.In bpftime/vm.h
.Sh DESCRIPTION
${prose(first)}
${paragraphs(rest)}
${text}.Sh SEE ALSO
.Xr bpftimefs 8
`;
}
