/** The name of the metadata context that tells what a mirror may lack; `mirrorId` as in the metadata log. */
export function dirtyContextName(mirrorId: number): string {
  return `x-blockferry:dirty/${mirrorId}`;
}
