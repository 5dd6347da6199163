// Has the page draw a node of ours that has replaced another. A page of 1.58 keeps the order in which it draws for as long as the
// graph's version stays, and "Replace All" leaves that: it went on drawing the old node, and failed at it.

import { app } from "../../../scripts/app.js";
import { isOurs } from "./report.js";

app.registerExtension({
  name: "chroma.replaced",
  nodeCreated(node) {
    if (isOurs(node)) queueMicrotask(() => { // before the next picture
      if (node.graph) node.graph._version += 1;
    });
  },
});
