// In a frame of this origin that nobody of this origin is known to have led here (sw.js). If it is
// one of the page's, it goes where it was to go; frames of other sites stay here.
//
// The child of the boot page never holds another origin's document (frame-src), and no frame within
// can lead it anywhere (sandbox): whatever happens in it is the page's own doing.
"use strict";

function place() {
  for (let frame = window, depth = 0; frame !== window.top; frame = frame.parent, depth++) {
    try {
      const above = frame.parent;
      const isBoot = above !== window.top && above.location.pathname === "/.ringback/boot.html";
      if (isBoot) return depth ? "elsewhere" : "within";
      void above.location.pathname; // Throws where it is another origin's.
    } catch {
      return null;
    }
  }
  return null;
}

const where = place();
if (where) {
  const to = location.href;
  const held = document.documentElement.dataset.held;
  history.replaceState(null, "", `/.ringback/${where}?${held}`);
  location.replace(to);
} else {
  document.documentElement.textContent = "This opens in the registry’s page only.";
}
