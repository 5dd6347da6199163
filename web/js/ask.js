// Questions to the server, which nodes/shared/routes.py answers.

import { api } from "../../../scripts/api.js";

/** The server's answer, with `error` where it cannot tell: asked again, it would be the same. raises: where another answers in its
 * place, such as a proxy before a server that starts, or none; then it is worth asking again. */
export async function ask(path, body, options) {
  const headers = { "Content-Type": "application/json" };
  const answer = await api.fetchApi(path, { method: "POST", headers, body, ...options });
  const told = await answer.json();
  const isOurs = told !== null && typeof told === "object" && !Array.isArray(told) && (answer.ok || "error" in told);
  if (!isOurs) throw new Error(answer.status);
  return told;
}
