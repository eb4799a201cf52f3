// Says when the page has stopped changing: layouts measure themselves and draw once more.
const QUIET_MS = 300;

/** Resolve when nothing under *root* has changed for a while. */
export function quiet(root) {
  return new Promise((resolve) => {
    let timer;
    const observer = new MutationObserver(() => restart());
    const restart = () => {
      clearTimeout(timer);
      timer = setTimeout(() => {
        observer.disconnect();
        resolve();
      }, QUIET_MS);
    };
    observer.observe(root, { attributes: true, childList: true, characterData: true, subtree: true });
    restart();
  });
}
