// Which of the open workflows is on the canvas. Two may have one id, as the pictures of one workflow have it that are dropped on
// the page; what tells them apart is their path.

import { app } from "../../../scripts/app.js";

const ARRIVED_MS = [0, 200, 1000]; // after a workflow's graph is there, until the page counts it as the one on the canvas

const store = () => app.extensionManager.workflow ?? {};

/** The path of the workflow on the canvas; while another is opened, still that of the one before. */
export function pathOnCanvas() {
  return store().activeWorkflow?.path;
}

export function isOpen(path) {
  return Boolean(store().openWorkflows?.some((one) => one.path === path));
}

/** Whether a path is that of the workflow on the canvas, or tells nothing: it is not known, or was left when a file was saved. */
export function isPlace(path) {
  return !path || path === pathOnCanvas() || !isOpen(path);
}

/** Does something once the page has come from a graph that is there to its workflow; more than once, as no event tells. */
export function arrived(act) {
  for (const ms of ARRIVED_MS) setTimeout(act, ms);
}
