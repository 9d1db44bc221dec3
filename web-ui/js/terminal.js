// The terminal, loaded when the first one is opened.
import { Terminal } from "@xterm/xterm";
import { FitAddon } from "@xterm/addon-fit";

const COLOURS = {
  background: "#10151a", foreground: "#e6eaee", cursor: "#3ecf9b", cursorAccent: "#10151a",
  selectionBackground: "#2f5d50", black: "#1b222a", red: "#ff7b72", green: "#5ad19a",
  yellow: "#e3b341", blue: "#79b8ff", magenta: "#d2a8ff", cyan: "#56d4dd", white: "#c9d1d9",
  brightBlack: "#7d8793", brightRed: "#ffa198", brightGreen: "#8af0c0", brightYellow: "#f2cc60",
  brightBlue: "#a5d6ff", brightMagenta: "#e2c5ff", brightCyan: "#8be9f0", brightWhite: "#ffffff",
};

// The page's policy allows no inline style, neither <style> nor style="…". xterm makes both; here
// they become a constructed sheet and the style object, which are scripts' own business.
class Sheets {
  constructor() {
    this.made = [];
  }

  element() {
    // Not a <style>: even an empty one is against the policy.
    const element = Document.prototype.createElement.call(document, "template");
    const sheet = new CSSStyleSheet();
    document.adoptedStyleSheets.push(sheet);
    this.made.push(sheet);
    Object.defineProperty(element, "textContent", {
      get: () => "",
      set: (text) => sheet.replaceSync(text),
    });
    return element;
  }

  drop() {
    document.adoptedStyleSheets = document.adoptedStyleSheets.filter((sheet) => !this.made.includes(sheet));
  }
}

// The letters of a line are spans, and copies of spans.
HTMLSpanElement.prototype.setAttribute = function (name, value) {
  if (name === "style") this.style.cssText = value;
  else Element.prototype.setAttribute.call(this, name, value);
};

function styledDocument(sheets) {
  const createElement = (name, options) => {
    if (name === "style") return sheets.element();
    return document.createElement(name, options);
  };
  return new Proxy(document, {
    get(target, key) {
      if (key === "createElement") return createElement;
      const value = Reflect.get(target, key, target);
      return typeof value === "function" ? value.bind(target) : value;
    },
    set: (target, key, value) => Reflect.set(target, key, value, target),
  });
}

function addStyleSheet(href) {
  if (document.querySelector(`link[href="${href}"]`)) return Promise.resolve();
  return new Promise((resolve) => {
    const link = document.createElement("link");
    link.rel = "stylesheet";
    link.href = href;
    link.onload = link.onerror = resolve;
    document.head.append(link);
  });
}

// Shows a terminal in `element`. `tell(kind, value)` gets "input" (text), "binary" (text of bytes)
// and "resize".
export async function open(element, styleSheet, tell) {
  await addStyleSheet(styleSheet);
  const sheets = new Sheets();
  const terminal = new Terminal({
    allowProposedApi: false,
    cursorBlink: true,
    documentOverride: styledDocument(sheets),
    fontFamily: getComputedStyle(document.documentElement).getPropertyValue("--mono"),
    fontSize: matchMedia("(max-width: 640px)").matches ? 13 : 14,
    lineHeight: 1.15,
    // What comes from the device opens nothing.
    linkHandler: { activate() {} },
    scrollback: 10000,
    theme: COLOURS,
  });
  const fit = new FitAddon();
  terminal.loadAddon(fit);
  // Its scroll bar takes the page's own document, whatever it is told.
  const createElement = document.createElement;
  document.createElement = (name, options) =>
    name === "style" ? sheets.element() : createElement.call(document, name, options);
  try {
    terminal.open(element);
  } finally {
    delete document.createElement;
  }
  const refit = () => {
    if (element.clientWidth > 0 && element.clientHeight > 0) fit.fit();
  };
  refit();
  const watcher = new ResizeObserver(refit);
  watcher.observe(element);
  terminal.onData((text) => tell("input", text));
  terminal.onBinary((text) => tell("binary", text));
  terminal.onResize(() => tell("resize"));
  const shown = {
    get cols() {
      return terminal.cols;
    },
    get rows() {
      return terminal.rows;
    },
    write: (bytes, shown) => terminal.write(bytes, shown),
    focus: () => terminal.focus(),
    reset: () => terminal.reset(),
    // What the screen says, for tests and for copying.
    text: () => {
      const buffer = terminal.buffer.active;
      const lines = [];
      for (let at = 0; at < buffer.length; at++) lines.push(buffer.getLine(at).translateToString(true));
      return lines.join("\n").trimEnd();
    },
    close: () => {
      watcher.disconnect();
      terminal.dispose();
      sheets.drop();
    },
  };
  // For tests, which can not read what is drawn.
  terminal.element.terminal = shown;
  return shown;
}
