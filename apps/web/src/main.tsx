import { render } from 'preact';
import { App } from './app.tsx';
import './style.css';
import './style-parts.css';

render(<App />, document.getElementById('app')!);
