// The package ships no types; src/attach/disasm.ts states what it uses.
declare module '@alexaltea/capstone-js';
