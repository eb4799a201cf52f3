// A label that is drawn beyond its canvas is cut off. No element knows: the canvas says it (data-cut).
const { clearRect, fillText } = CanvasRenderingContext2D.prototype;
const SLACK = 1; // pixels, of a letter's own edge

CanvasRenderingContext2D.prototype.clearRect = function (...box) {
  delete this.canvas.dataset.cut; // all is drawn anew
  return clearRect.apply(this, box);
};

CanvasRenderingContext2D.prototype.fillText = function (text, x, y, ...rest) {
  const size = this.measureText(text);
  const matrix = this.getTransform();
  const corners = [
    { x: x - size.actualBoundingBoxLeft, y: y - size.actualBoundingBoxAscent },
    { x: x + size.actualBoundingBoxRight, y: y + size.actualBoundingBoxDescent },
  ].map((corner) => matrix.transformPoint(corner));
  if (corners.some((corner) => isBeyond(corner, this.canvas))) {
    this.canvas.dataset.cut = text;
  }
  return fillText.call(this, text, x, y, ...rest);
};

/** Not to the right: there Grafana has little room for a time at the very end of the range, on any board. */
function isBeyond({ x, y }, { height }) {
  return Math.min(x, y) < -SLACK || y > height + SLACK;
}
