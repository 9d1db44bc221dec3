// The first module of the page: starts the program. WASM is the hashed name that the build gives.
import start from "./ringback_web_ui.js";

// `import()` is syntax, which the program can not call by itself.
window.ringbackImport = (url) => import(url);

start({ module_or_path: WASM }).catch((error) => {
  console.error(error);
  const note = document.getElementById("waiting-words");
  if (note) note.textContent = "This browser can not run the page. Firefox, Chrome, Edge or Safari of the last two years can.";
});
