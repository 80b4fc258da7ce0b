export declare function docExamples(): { document: string; number: number; code: string }[];
